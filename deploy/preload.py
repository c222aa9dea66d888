"""Imported once, in the process that all roles of a run are forked from.

Importing torch takes longer than everything else at start; here it is paid once instead of in each
process. Nothing may start a thread here: threads do not survive a fork.
"""

import actor.evaluator
import actor.inference_server
import actor.loop
import learner.loop
import replay_server.server

ROLES = (
    actor.loop,
    actor.evaluator,
    actor.inference_server,
    learner.loop,
    replay_server.server,
)
