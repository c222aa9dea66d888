"""What the head makes of its members' numbers."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from common.block_columns import block_bytes
from common.config import Config
from common.manifest import Manifest
from common.metrics import Telemetry
from learner.autoscaling import PERIOD_S
from learner.head import SILENCE_S
from learner.recorder import Record, Recorder
from learner.report import Report
from learner.sinks import scalars
from learner.status import LearnerCounters
from tests.head_with_peers import MANIFEST, Run, heartbeat, join

TRAINING = LearnerCounters(phase="training")
ACTORS = 8
WAITED_S = 1_000.0
"""Of each actor and replay server, before the head was restarted."""


def report_of(
    run: Run,
    recorder: Recorder,
    counters: LearnerCounters = TRAINING,
    *,
    manifest: Manifest = MANIFEST,
    wall_s: Callable[[], float] = lambda: 1.0,
) -> Report:
    return Report(run.head, manifest, counters, wall_s, Telemetry(dict), recorder)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with closing(Recorder([])) as made:
        yield made


def test_the_heads_own_metrics_and_its_status_are_of_all_members(recorder: Recorder) -> None:
    run = Run()
    report = report_of(run, recorder, LearnerCounters(updates=100))
    a, b, _ = (run.welcome(peer, join()).session for peer in (b"a", b"b", b"c"))
    run.send(b"a", heartbeat(a, [1.0, 2.0, 6.0], actor_weights_version=88.0))
    # Ahead of a learner that was resumed; and the third has not told of its weights.
    run.send(b"b", heartbeat(b, actor_weights_version=105.0))
    values = report.head_telemetry.snapshot()[0]
    assert values["head_training_return"] == 3.0
    assert values["head_policy_lag_updates"] == 6.0  # (12 + 0) / 2
    assert [m["returns"] for m in report.status().members] == [{}, {"0": 3.0}, {}, {}]
    run.head.tick(SILENCE_S + 0.1)
    assert report.head_telemetry.snapshot()[0]["head_lost_members_total"] == 4


def test_a_status_tells_the_bytes_of_all_replay_servers(recorder: Recorder) -> None:
    two = replace(MANIFEST, config=Config(replay_servers=2))
    report = report_of(Run(two), recorder, manifest=two)
    each = block_bytes(two.spec, two.layout, two.config.replay_slots)
    assert report.status().replay_bytes == 2 * each


@pytest.mark.parametrize(("phase", "wanted"), [("waiting", None), ("training", 4)])
def test_more_actors_are_wanted_while_the_learner_waits_once_it_trains(
    recorder: Recorder, phase: str, wanted: int | None
) -> None:
    run, counters = Run(), LearnerCounters(phase=phase)
    report = report_of(run, recorder, counters)
    for peer in (b"a", b"b"):
        run.welcome(peer, join())
    for now_s in (0.0, PERIOD_S):
        counters.waited_s = now_s / 2
        report.observe_waiting(now_s)
    # Half of its time for two actors' work.
    assert report.head_telemetry.snapshot()[0].get("head_wanted_actors") == wanted


@pytest.mark.parametrize("share", [0.05, 0.55])
def test_actors_that_come_back_to_a_restarted_head_have_not_waited_all_their_lives(
    recorder: Recorder, share: float
) -> None:
    run = Run()
    report = report_of(run, recorder)
    sessions: dict[int, int] = {}
    for now_s in range(int(PERIOD_S) + 2):
        run.now_s = float(now_s)
        # The last of them a second after the first update.
        for actor in range(ACTORS if now_s else ACTORS - 1):
            peer = b"actor %d" % actor
            if actor not in sessions:
                sessions[actor] = run.welcome(peer, join()).session
            waited_s = WAITED_S + share * now_s
            run.send(peer, heartbeat(sessions[actor], actor_blocked_seconds_total=waited_s))
        report.observe_waiting(run.now_s)
    wanted = report.head_telemetry.snapshot()[0]["head_wanted_actors"]
    # 0.55 of their time is 0.45 of 8 actors' work.
    assert wanted == {0.05: ACTORS, 0.55: 4}[share]


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        """There is nothing to close."""


def test_replay_servers_that_come_back_have_not_waited_since_the_last_record() -> None:
    run, kept, wall_s = Run(serving=False), Kept(), iter((10.0, 11.0))
    with closing(Recorder([kept])) as recorder:
        report = report_of(run, recorder, wall_s=lambda: next(wall_s))
        for session in (1, 2):
            run.head.metrics.begin(session, token=session)
            run.head.metrics.add(session, {"replay_insert_blocked_seconds_total": WAITED_S}, {})
            report.write_records()
    last, now = kept.records
    assert scalars(now, last, replay_servers=2)["charts/actors_waiting"] == 0.0
