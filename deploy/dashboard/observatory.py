"""Everything that is known of the runs somebody looks at: their files, and what their heads say.

One for all who look: a file is read once, a head is asked at most four times a second, and nobody
is asked for whom nobody looks.
"""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import Config, config_from_mapping
from common.errors import ConfigError, ZapexError
from common.run_directory import METRICS_FILE
from common.security import NOTHING_TOLD, SecureContext, Security
from deploy.dashboard.catalogue import Catalogue, Run, State
from deploy.dashboard.flows import NOTHING, Flows, flows
from deploy.dashboard.following import Following
from deploy.history import History, Line
from deploy.live_view import RATE_WINDOW_S
from deploy.status_client import StatusClient
from learner.announcement import HEAD_FILE, STATUS_FILE

CATALOGUE_PERIOD_S = 0.9
FORGET_S = 30.0
"""What was read of a run is kept so long after the last look."""
ANSWER_S = 5.0
"""How long a head's last answer counts as the present."""
VIDEOS = ("*.mp4", "*.webm")


@dataclass(frozen=True, slots=True)
class View:
    """One run, now."""

    run: Run
    history: History
    config: Config | None
    newest: Line
    """Newest values of metrics.jsonl; of a run that goes on, of the last seconds."""
    flows: Flows
    status: dict[str, Any] | None
    """`learner.status.RunStatus`: the head's answer, or the last one that it left behind."""
    answered: bool
    """The head is there and has just said it."""
    video: Path | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Watched:
    following: Following
    seen_s: float
    client: StatusClient | None = None
    address: str = ""
    status: dict[str, Any] | None = None
    answered_s: float = float("-inf")
    left: tuple[float, dict[str, Any] | None] = field(default=(0.0, None))
    """status.json, with the time it was written at."""


class Observatory:
    """Ask for `runs` and `views`, from any thread."""

    def __init__(self, runs_dir: Path, security: Security = NOTHING_TOLD) -> None:
        self._catalogue = Catalogue(runs_dir)
        self._context = SecureContext(security)
        self._lock = threading.Lock()
        self._runs: list[Run] = []
        self._next_s = float("-inf")
        self._watched: dict[str, _Watched] = {}

    @property
    def runs_dir(self) -> Path:
        return self._catalogue.runs_dir

    @property
    def notes(self) -> list[str]:
        """One line for what keeps the list from being whole."""
        return self._catalogue.notes

    def runs(self) -> list[Run]:
        """As of this second, newest first."""
        with self._lock:
            return self._list(time.monotonic())

    def views(self, names: Sequence[str]) -> list[View | None]:
        """Of the runs of these names; None: there is none of it (any more)."""
        now_s = time.monotonic()
        with self._lock:
            by_name = {run.name: run for run in self._list(now_s)}
            found = [self._view(by_name[n], now_s) if n in by_name else None for n in names]
            for name, watched in list(self._watched.items()):
                if now_s - watched.seen_s > FORGET_S:
                    _close(watched)
                    del self._watched[name]
            return found

    def video(self, name: str) -> Path | None:
        """The newest video of a run."""
        run = next((run for run in self.runs() if run.name == name), None)
        return None if run is None else newest_video(run.run_dir)

    def close(self) -> None:
        with self._lock:
            for watched in self._watched.values():
                _close(watched)
            self._context.term()

    def _list(self, now_s: float) -> list[Run]:
        if now_s >= self._next_s:
            self._next_s = now_s + CATALOGUE_PERIOD_S
            self._runs = self._catalogue.runs()
        return self._runs

    def _view(self, run: Run, now_s: float) -> View:
        watched = self._watched.get(run.name)
        if watched is None:
            watched = _Watched(Following(run.run_dir / METRICS_FILE), now_s)
            self._watched[run.name] = watched
        watched.seen_s = now_s
        following = watched.following
        notes = list(run.notes)
        try:
            following.read()
        except OSError as error:
            notes.append(f"{METRICS_FILE} cannot be read: {error.strerror}")
        if following.unreadable:
            notes.append(
                f"{following.unreadable} lines of {METRICS_FILE} cannot be read: a killed run "
                "leaves one unfinished"
            )
        if following.skipped:
            notes.append(f"{METRICS_FILE} is long: its curves are drawn from parts of it")
        self._ask(run, watched, now_s)
        answered = now_s - watched.answered_s < ANSWER_S
        try:
            config = config_from_mapping(run.settings, "config.toml") if run.settings else None
        except ConfigError as error:
            config = None
            notes.append(f"its configuration is of another version: {error}")
        history = History(run.run_dir, config, following.lines, run.result, notes)
        newest = following.known
        if run.state is State.RUNNING:
            newest = {name: value for line in following.recent for name, value in line.items()}
        return View(
            run=run,
            history=history,
            config=config,
            newest=newest,
            flows=_flows(following, run.state is State.RUNNING),
            status=watched.status if answered else self._left(run, watched),
            answered=answered,
            video=newest_video(run.run_dir),
            notes=tuple(notes),
        )

    def _ask(self, run: Run, watched: _Watched, now_s: float) -> None:
        """Hear what the head answered to the last question, and ask the next one."""
        address = _address(run.run_dir) if run.state is State.RUNNING else ""
        if address != watched.address:
            _close(watched)
            watched.address = address
            # A file that somebody else wrote names no address.
            with contextlib.suppress(ZapexError):
                if address:
                    watched.client = StatusClient(address, self._context)
        if watched.client is None:
            return
        latest = watched.client.latest()
        # An address that a killed run left may be another run's by now.
        if latest is not None and latest.get("run_id") in (run.name, self._run_id(run, watched)):
            watched.status, watched.answered_s = latest, now_s

    def _run_id(self, run: Run, watched: _Watched) -> str | None:
        left = self._left(run, watched)
        return None if left is None else left.get("run_id")

    def _left(self, run: Run, watched: _Watched) -> dict[str, Any] | None:
        path = run.run_dir / STATUS_FILE
        try:
            written_s = path.stat().st_mtime
            if watched.left[0] != written_s:
                found = json.loads(path.read_text(encoding="utf-8"))
                watched.left = written_s, found if isinstance(found, dict) else None
        except (OSError, ValueError):
            watched.left = (0.0, None)
        return watched.left[1]


def newest_video(run_dir: Path) -> Path | None:
    """Of what evaluations recorded."""
    found = [path for pattern in VIDEOS for path in (run_dir / "videos").glob(pattern)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _flows(following: Following, live: bool) -> Flows:
    if following.first is None:
        return NOTHING
    # When the last line is written all members have left.
    actors = max(line.get("head_actors", 0.0) for line in following.recent)
    newest = following.recent[-1] | {"head_actors": actors}
    if not live:
        return flows(following.first, newest)
    since = next(
        line for line in following.recent if newest["wall_s"] - line["wall_s"] <= RATE_WINDOW_S
    )
    # What came only after that has its first value there.
    return flows(following.first | since, newest)


def _address(run_dir: Path) -> str:
    """Where the head listens; empty: nobody says."""
    try:
        return (run_dir / HEAD_FILE).read_text().strip()
    except (OSError, ValueError):
        return ""


def _close(watched: _Watched) -> None:
    if watched.client is not None:
        watched.client.close()
    watched.client = None
