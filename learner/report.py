"""What the head's process tells of the run: a status for whoever asks, a record each second."""

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from common.block_columns import block_bytes
from common.manifest import Manifest
from common.metric_table import histogram
from common.metrics import Telemetry, Values
from learner.autoscaling import ActorsWanted
from learner.head import Head
from learner.recorder import Record, Recorder
from learner.status import LearnerCounters, RunStatus

REFUSED_PEERS = "_refused_peers_total"
LEARNER, HEAD = -1, -2
"""Sessions of this process's own metrics; those of members are not negative."""


class Report:
    """Puts together what the head knows of the members and what the training loop shows of itself.

    Args:
        wall_s: seconds since the run began.
        telemetry: the training loop's own metrics.
        recorder: takes the records.
        refused_peers: handshakes that failed at the head's sockets.
    """

    def __init__(
        self,
        head: Head,
        manifest: Manifest,
        counters: LearnerCounters,
        wall_s: Callable[[], float],
        telemetry: Telemetry,
        recorder: Recorder,
        refused_peers: Callable[[], int] = lambda: 0,
    ) -> None:
        self._head, self._manifest, self._counters, self._wall_s = head, manifest, counters, wall_s
        self._telemetry, self._recorder, self._refused_peers = telemetry, recorder, refused_peers
        self._actor_lag = histogram("head_actor_lag_updates")
        self.head_telemetry = Telemetry(self._values, [self._actor_lag])
        """The head's own metrics, those of the run as a whole."""
        self._actors_wanted = ActorsWanted()
        self._lock = threading.Lock()
        self._scores: list[dict[str, float]] = []

    def note_score(self, facts: dict[str, float]) -> None:
        """An evaluation was recorded: it belongs into the run's metrics. For any thread."""
        with self._lock:
            self._scores.append(facts)

    def write_records(self) -> None:
        """One for now, and one more for each further score that came since the last."""
        head, counters = self._head, self._counters
        head.metrics.add(LEARNER, *self._telemetry.snapshot())
        self._actor_lag.observe_all(self._lags())
        head.metrics.add(HEAD, *self.head_telemetry.snapshot())
        with self._lock:
            scores, self._scores = self._scores, []
        returns, lengths = head.take_episodes()
        values, brought = head.metrics.record(), head.metrics.brought
        noted: list[dict[str, float] | None] = [*scores] or [None]
        for score in noted:
            record = Record(
                time.time(),
                self._wall_s(),
                counters.env_steps,
                counters.updates,
                values,
                brought,
                returns,
                lengths,
                score,
            )
            self._recorder.offer(record)
            returns, lengths = [], []

    def observe_waiting(self, now_s: float) -> None:
        """Who waits for whom: once a second, say. `now_s` is monotonic."""
        # Before the first update the learner waits for a minimum of experience, whoever brings it.
        if self._counters.phase == "training":
            metrics, name = self._head.metrics, "actor_blocked_seconds_total"
            actors_waited_s = metrics.values().get(name, 0.0) - metrics.brought.get(name, 0.0)
            actors = len(self._head.of_role("actor"))
            self._actors_wanted.observe(now_s, actors, actors_waited_s, self._counters.waited_s)

    def status(self) -> RunStatus:
        """How the run goes now."""
        manifest, config, head = self._manifest, self._manifest.config, self._head
        returns = head.recent_returns
        return RunStatus(
            run_id=self._manifest.run_id,
            env=config.env,
            wall_s=self._wall_s(),
            total_env_steps=config.total_env_steps,
            target_return=config.target_return,
            samples_per_insert=config.samples_per_insert,
            replay_capacity=config.replay_size,
            replay_bytes=config.replay_servers
            * block_bytes(manifest.spec, manifest.layout, config.replay_slots),
            learner=self._counters,
            train_return=sum(returns) / len(returns) if returns else None,
            episodes=head.episodes,
            members=[
                {
                    "role": m.role,
                    "number": m.number,
                    "host": m.host,
                    "pid": m.pid,
                    "num_envs": m.num_envs,
                    "values": m.values,
                    # Keys are text: the wire has no others.
                    "returns": {str(env): sum(r) / len(r) for env, r in m.returns.items()},
                    "first_env_index": m.first_env_index,
                }
                for m in head.members.values()
            ],
            histograms={name: h.tolist() for name, h in head.metrics.histograms.items()},
            lost=head.lost,
            refused=self._refused(),
        )

    def _values(self) -> Values:
        head, returns = self._head, self._head.recent_returns
        lags = self._lags()
        values: Values = {
            "head_actors": len(head.of_role("actor")),
            "head_lost_members_total": sum(head.lost.values()),
            "head_dropped_records_total": self._recorder.dropped,
            "head_refused_peers_total": self._refused_peers(),
            **head.rejections.values(),
        }
        if self._actors_wanted.wanted:
            values["head_wanted_actors"] = self._actors_wanted.wanted
        if returns:
            values["head_training_return"] = sum(returns) / len(returns)
        if len(lags):
            values["head_policy_lag_updates"] = float(lags.mean())
        return values

    def _refused(self) -> Values:
        """What nobody in the run accepted, the head's own as of its last record."""
        return {
            name: value
            for name, value in self._head.metrics.values().items()
            if value and ("_rejected_messages_total." in name or name.endswith(REFUSED_PEERS))
        }

    def _lags(self) -> npt.NDArray[np.float64]:
        """Updates by which each actor that has told its weights' version is behind."""
        values = [m.values for m in self._head.of_role("actor")]
        versions = [v["actor_weights_version"] for v in values if "actor_weights_version" in v]
        return np.maximum(self._counters.updates - np.array(versions, np.float64), 0.0)
