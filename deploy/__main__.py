"""`python -m deploy launch | evaluate | dashboard`: run zapex on this host, and see it learn."""

import sys

from common.process import run_main

COMMANDS = {
    "launch": "train an agent: starts all processes, shows progress, ends with a score",
    "evaluate": "greedy episodes of a finished or running run's checkpoint",
    "dashboard": "a page with all runs of a directory, live and afterwards",
}


def main() -> int:
    argv = sys.argv[1:]
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    return run_main(lambda: _dispatch(command, rest), debug="--debug" in rest)


def _dispatch(command: str, argv: list[str]) -> int:
    # Each command imports what it needs when it is chosen: launch begins by starting the imports of
    # its roles elsewhere.
    if command == "launch":
        from deploy.launch import launch

        return launch(argv)
    if command == "evaluate":
        from deploy.evaluate import evaluate

        return evaluate(argv)
    if command == "dashboard":
        from deploy.dashboard.command import dashboard

        return dashboard(argv)
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
