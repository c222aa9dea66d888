"""The sockets of a head, beside which nobody trains."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import zmq

from common.health import Health
from common.manifest import Manifest
from common.metrics import Telemetry
from learner.announcement import Announcement
from learner.control import ControlPlane
from learner.recorder import Recorder, Sink
from learner.status import LearnerCounters
from learner.targets import Targets


@contextmanager
def open_head(
    context: zmq.Context[zmq.Socket[bytes]],
    bind: str,
    manifest: Manifest,
    *,
    counters: LearnerCounters | None = None,
    wall_s: Callable[[], float] = lambda: 0.0,
    sinks: Sequence[Sink] = (),
    run_dir: Path | None = None,
    metrics_endpoint: str = "",
) -> Iterator[ControlPlane]:
    """A head until the context ends.

    Args:
        run_dir: None: one of its own, for so long.
        metrics_endpoint: where Prometheus is told to find the learner; empty: nowhere.
    """
    with tempfile.TemporaryDirectory(prefix="zapex-") as own, closing(Recorder(sinks)) as recorder:
        directory = run_dir or Path(own)
        control = ControlPlane(
            context,
            bind,
            manifest,
            counters or LearnerCounters(),
            wall_s,
            epoch=0,
            telemetry=Telemetry(dict),
            recorder=recorder,
            targets=Targets(directory, manifest.run_id, metrics_endpoint),
            announcement=Announcement(directory),
            health=Health(),
        )
        with closing(control):
            yield control
