"""`python -m deploy COMMAND`: run zapex on this host, and look at its runs."""

import importlib
import sys

from common.flags import with_dashes
from common.process import outlast_readers, run_main

COMMANDS = {
    "launch": "train an agent: starts all processes, shows progress, ends with a score",
    "head": "the head of a run alone: the other roles are started by something else",
    "evaluate": "greedy episodes of a finished or running run's checkpoint",
    "play": "watch them: in a window or as videos",
    "keys": "who may connect to a run: new, add, list, revoke",
    "status": "how a run goes, on this machine or another",
    "dashboard": "a page with all runs of a directory, live and afterwards",
    "plot": "draw a run's curves, or several runs and seeds side by side",
}
"""Each is a function of its name, in a module of its name or where `_ELSEWHERE` says."""
_RUNS = ("launch", "head")
"""Commands whose run goes on when nobody can be told how."""
_ELSEWHERE = {"dashboard": "deploy.dashboard.command"}


def main() -> int:
    argv = with_dashes(sys.argv[1:])
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    return run_main(lambda: _dispatch(command, rest), debug="--debug" in rest)


def _dispatch(command: str, argv: list[str]) -> int:
    if command in _RUNS:
        outlast_readers()
    if command in COMMANDS:
        # Each command imports what it needs when it is chosen: launch begins by starting the
        # imports of its roles elsewhere.
        module = importlib.import_module(_ELSEWHERE.get(command, f"deploy.{command}"))
        code: int = getattr(module, command)(argv)
        return code
    lines = [f"  {name:10} {what}" for name, what in COMMANDS.items()]
    text = "\n".join(["usage: python -m deploy COMMAND [OPTIONS]", "", *lines, "",
                      "python -m deploy COMMAND --help shows a command's options."])  # fmt: skip
    if command in ("-h", "--help"):
        print(text)
        return 0
    print(f"error: unknown command {command!r}\n\n{text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
