"""`launch --profile`: what the processes recorded, as one picture for Perfetto or chrome://tracing.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU ("Trace
Event Format"): complete events, times in microseconds, one process each, one thread for each loop.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Config
from common.trace import BEGAN, ENDED

DIRECTORY = "profile"
TRACE_FILE = "trace.json"
SHOWN_PHASES = 4


@dataclass(frozen=True, slots=True)
class Track:
    """What one loop did."""

    name: str
    """Of the process, and -prefetch behind it for the thread of that name."""
    spans: list[tuple[str, int, int]]
    """Phase, begin and end; ns of the host's monotonic clock."""

    def shares(self) -> dict[str, float]:
        """Of the recorded time, by phase, the largest first."""
        total: dict[str, int] = defaultdict(int)
        for phase, begin_ns, end_ns in self.spans:
            total[phase] += end_ns - begin_ns
        whole = sum(total.values()) or 1
        return {p: t / whole for p, t in sorted(total.items(), key=lambda item: -item[1])}


class Profile:
    """The directory in which a run's processes record; made, or emptied of what an earlier part of
    the run left there.

    Args:
        tracks: how many processes record. The learner's thread of its own for batches, if it has
            one, may add another.
    """

    def __init__(self, run_dir: Path, tracks: int) -> None:
        self.directory = run_dir / DIRECTORY
        self._target = run_dir / TRACE_FILE
        self._tracks = tracks
        self._written = 0
        self.directory.mkdir(exist_ok=True)
        for path in self.directory.iterdir():
            if not path.is_dir():
                path.unlink()
        self._target.unlink(missing_ok=True)

    def collect(self, *, at_the_end: bool = False) -> list[str]:
        """Write the picture once all tracks are there, or at the end with those that are; says so,
        in lines, the first time."""
        if self._written and not at_the_end:
            return []
        if not (self.directory / ENDED).exists():
            return [self._nothing()] if at_the_end else []
        paths = sorted(self.directory.glob("*.json"), key=lambda path: path.stem)
        if len(paths) < self._tracks and not at_the_end:
            return []
        told, self._written = self._written, len(paths)
        if len(paths) == told:
            return []
        tracks = [read_track(path) for path in paths]
        self._target.write_text(json.dumps({"traceEvents": list(events(tracks))}))
        if told:  # One more came after all the others.
            return []
        return [
            f"profile: {self._target} (open it at https://ui.perfetto.dev)",
            *(f"  {track.name:22} {_shown(track)}" for track in tracks if track.spans),
        ]

    def _nothing(self) -> str:
        began = (self.directory / BEGAN).exists()
        return "no profile: the run ended " + (
            "before it was recorded" if began else "before training was under way"
        )


def recording(config: Config, roles: Collection[str], actors_here: int) -> int:
    """How many processes of a run record: the learner and, of these roles, those that it waits for;
    none of another host, and not the evaluator."""
    servers = config.replay_servers if "replay_server" in roles else 0
    return 1 + servers + actors_here + ("inference" in roles and config.inference != "actor")


def read_track(path: Path) -> Track:
    """What a loop wrote."""
    found = json.loads(path.read_text())
    names = found["names"]
    return Track(found["track"], [(names[i], begin, end) for i, begin, end in found["spans"]])


def events(tracks: Iterable[Track]) -> Iterator[dict[str, Any]]:
    """Trace events of all tracks, from the first span's begin on."""
    tracks = [track for track in tracks if track.spans]
    origin_ns = min((track.spans[0][1] for track in tracks), default=0)
    processes: dict[str, int] = {}
    for thread, track in enumerate(tracks, start=1):
        process = track.name.removesuffix("-prefetch")
        pid = processes.setdefault(process, len(processes) + 1)
        where = {"pid": pid, "tid": thread}
        yield {"ph": "M", "name": "process_name", **where, "args": {"name": process}}
        yield {"ph": "M", "name": "thread_name", **where, "args": {"name": track.name}}
        for phase, begin_ns, end_ns in track.spans:
            yield {
                "ph": "X",
                "name": phase,
                "ts": (begin_ns - origin_ns) / 1e3,
                "dur": (end_ns - begin_ns) / 1e3,
                **where,
            }


def _shown(track: Track) -> str:
    shares = list(track.shares().items())[:SHOWN_PHASES]
    return ", ".join(f"{phase} {share:.0%}" for phase, share in shares)
