"""`python -m tests.network.impatient MODULE …`: a role whose patience with the network is short.

What takes a minute with the times that are meant for real networks takes a few seconds so.
"""

import runpy
import sys

from common import membership, transport


def main() -> None:
    transport.LOST_S, transport.PROBE_PERIOD_S, transport.CONNECT_LIMIT_S = 2, 1, 1
    membership.HEAD_SILENCE_WARNING_S = 3.0
    if sys.argv[1] == "learner":
        from learner import head

        head.SILENCE_S, head.ANSWER_PERIOD_S = 5.0, 1.0
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
