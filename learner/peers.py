"""The rest of the run, as the training loop sees it.

Mostly that is `learner.control.ControlPlane`, with other processes behind its sockets. In a run of
one thread it is the other roles themselves (`deploy/in_turn.py`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from common.health import Health
from common.manifest import Manifest
from common.messages import EvalResult, NamedTensors
from common.metrics import Telemetry
from common.rejections import Rejections
from common.trace import Trace
from learner.announcement import Announcement
from learner.feed import Feed
from learner.recorder import Recorder
from learner.status import LearnerCounters
from learner.targets import Targets


class Peers(Protocol):
    """Used by the training loop alone, which never waits for them but in `open_feed`."""

    endpoint: str
    """Where others join."""
    head_telemetry: Telemetry
    """Metrics of the run as a whole."""

    @property
    def evaluator(self) -> int | None:
        """The session of who would give a version its score, of several the last to come."""

    def publish(self, topic: bytes, epoch: int, version: int, tensors: NamedTensors) -> None:
        """Hand out a version of the weights."""

    def take_evaluations(self) -> list[EvalResult]:
        """Results that came since the last call. Raises what ended the peers."""

    def note_score(self, facts: dict[str, Any]) -> None:
        """An evaluation was recorded: it belongs into the run's metrics."""

    def open_feed(
        self,
        timeout_s: float,
        device: torch.device,
        trace: Trace,
        thread_trace: Trace,
        rejections: Rejections,
    ) -> Feed | None:
        """Batches from the replay; None when there is none in time.

        Args:
            trace: of the loop that trains.
            thread_trace: of the feed's own thread, if it gets one.
            rejections: counts what the replay sends and is no batch.
        """

    def keep_up(self, feed: Feed) -> None:
        """Have the feed follow replay servers that came and went."""

    def stop_members(self, timeout_s: float) -> None:
        """Have everybody stop; waits for `timeout_s` at most."""

    def close(self) -> None: ...


class Connect(Protocol):
    """Makes the peers of a run; arguments as of `learner.control.ControlPlane`."""

    def __call__(
        self,
        manifest: Manifest,
        counters: LearnerCounters,
        wall_s: Callable[[], float],
        /,
        *,
        epoch: int,
        telemetry: Telemetry,
        targets: Targets,
        recorder: Recorder,
        announcement: Announcement,
        health: Health,
    ) -> Peers: ...
