"""`RUN_DIR/prometheus.json`: where each process of a run can be scraped, for Prometheus's discovery
by files (`file_sd_configs`).

Prometheus allows a pattern in the last part of a path alone, so it could not find those of all
runs: links to them lie together in the directory of the runs, `.prometheus/RUN.json`. A run that
ends takes both away. What a failed or killed one leaves tells Prometheus that its learner should
be there, and is not.
"""

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common.run_directory import replace_text
from learner.members import Member

TARGETS_FILE = "prometheus.json"
LINKS = ".prometheus"

log = logging.getLogger(__name__)


class Targets:
    """Writes the file whenever it would say something else; nothing as long as nobody has an
    endpoint.

    Args:
        run: the run's name.
        own: the learner's endpoint; empty: it has none.
    """

    def __init__(self, run_dir: Path, run: str, own: str) -> None:
        run_dir = run_dir.resolve()
        self._path = run_dir / TARGETS_FILE
        self._link = run_dir.parent / LINKS / f"{run_dir.name}.json"
        self._run, self._own = run, own
        self._told = "[]"

    def tell(self, members: Iterable[Member]) -> None:
        """These are the run's members now."""
        endpoints = [
            ("learner", 0, self._own),
            *((m.role, m.number, m.metrics_endpoint) for m in members),
        ]
        groups = [
            {
                "targets": [endpoint],
                "labels": {"job": "zapex", "run": self._run, "role": role, "number": str(number)},
            }
            for role, number, endpoint in endpoints
            if endpoint
        ]
        text = json.dumps(groups, indent=1)
        if text == self._told:
            return
        self._told = text
        # A full disk, or a directory of runs that is not ours, is no reason to end a run.
        try:
            replace_text(self._path, text + "\n")
            self._make_link()
        except OSError as error:
            log.warning("Prometheus does not find all processes of this run: %s", error)

    def withdraw(self) -> None:
        """The run ends as it should: there is nothing to scrape any more."""
        with suppress(OSError):
            self._link.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def _make_link(self) -> None:
        self._link.parent.mkdir(exist_ok=True)
        if not self._link.is_symlink():
            # Relative: the runs may be mounted elsewhere for Prometheus.
            self._link.symlink_to(os.path.relpath(self._path, self._link.parent))
