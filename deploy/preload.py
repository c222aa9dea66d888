"""Imported once, in the process that all roles of a run are forked from.

Importing torch takes longer than everything else at start; here it is paid once instead of in each
process. Nothing may start a thread here: threads do not survive a fork.
"""

# Imported for the import's sake.
# ruff: noqa: F401
import actor.evaluator
import actor.inference_server
import actor.loop
import learner.loop
import replay_server.server
