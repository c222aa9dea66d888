"""`RUN_DIR/prometheus.json`: where each process of a run can be scraped, for Prometheus's discovery
by files (`file_sd_configs`)."""

import json
from collections.abc import Iterable
from pathlib import Path

from learner.head import Member

TARGETS_FILE = "prometheus.json"


class Targets:
    """Writes the file whenever it would say something else; nothing as long as nobody has an
    endpoint.

    Args:
        own: the learner's endpoint; empty: it has none.
    """

    def __init__(self, run_dir: Path, own: str) -> None:
        self._path = run_dir / TARGETS_FILE
        self._own = own
        self._told = "[]"

    def tell(self, members: Iterable[Member]) -> None:
        """These are the run's members now."""
        endpoints = [("learner", self._own), *((m.role, m.metrics_endpoint) for m in members)]
        groups = [
            {"targets": [endpoint], "labels": {"job": "zapex", "role": role}}
            for role, endpoint in endpoints
            if endpoint
        ]
        text = json.dumps(groups, indent=1)
        if text != self._told:
            self._told = text
            # Prometheus may read at any moment.
            temporary = self._path.with_suffix(".partial")
            temporary.write_text(text + "\n")
            temporary.replace(self._path)
