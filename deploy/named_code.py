"""Code that a run's configuration names: its environment's module, and its network's.

A run directory holds numbers and text, and loading one runs nothing of it. But its configuration
says which modules to import, from this machine's own path. Whoever opens somebody else's run is
told which.
"""

import sys
from pathlib import Path

from common.config import Config
from common.run_directory import CONFIG_FILE


def named_code(config: Config) -> list[str]:
    """What is imported because the configuration says so, beside what zapex needs itself."""
    named = {"env": config.env, "network": config.network}
    return [f"{value.partition(':')[0]} ({key})" for key, value in named.items() if ":" in value]


def tell_named_code(run_dir: Path, config: Config) -> None:
    """One line on standard error, if there is anything to tell."""
    named = named_code(config)
    if named:
        print(
            f"{run_dir / CONFIG_FILE} has this command import {' and '.join(named)} "
            "from your Python path: code that you must trust",
            file=sys.stderr,
        )
