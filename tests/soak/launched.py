"""`python -m tests.soak.launched …`: as `python -m deploy launch …`; its actors keep ledgers."""

import sys

from common.process import run_main
from deploy import launcher
from deploy.launch import launch


def main() -> int:
    context = launcher._CONTEXT
    preload = context.set_forkserver_preload
    context.set_forkserver_preload = lambda names: preload([*names, "tests.soak.preloaded"])  # type: ignore[method-assign]
    return run_main(lambda: launch(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
