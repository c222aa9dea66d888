"""`python -m tests.soak.launched …`: as `python -m deploy launch …`, with actors that keep ledgers,
and with a supervisor that does not lose patience."""

import sys

from common.process import run_main
from deploy import launcher
from deploy.launch import launch

ENDLESS = 1_000_000


def main() -> int:
    launcher.MAX_RESTARTS = ENDLESS
    launcher.LAST_BACKOFF_S = launcher.FIRST_BACKOFF_S
    context = launcher._CONTEXT
    preload = context.set_forkserver_preload
    context.set_forkserver_preload = lambda names: preload([*names, "tests.soak.preloaded"])  # type: ignore[method-assign]
    return run_main(lambda: launch(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
