"""What the head makes of its members' numbers when it has only just begun to hear them."""

from contextlib import closing

import pytest

from learner.autoscaling import PERIOD_S
from learner.recorder import Record, Recorder
from learner.report import Report
from learner.sinks import scalars
from learner.status import LearnerCounters
from tests.head_with_peers import MANIFEST, Run, heartbeat, join

TRAINING = LearnerCounters(phase="training")
ACTORS = 8
WAITED_S = 1_000.0
"""Of each actor and replay server, before the head was restarted."""


@pytest.mark.parametrize("share", [0.05, 0.55])
def test_actors_that_come_back_to_a_restarted_head_have_not_waited_all_their_lives(
    share: float,
) -> None:
    run = Run()
    report = Report(run.head, MANIFEST, TRAINING, lambda: 1.0)
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
        report = Report(run.head, MANIFEST, TRAINING, lambda: next(wall_s), recorder=recorder)
        for session in (1, 2):
            run.head.metrics.begin(session, token=session)
            run.head.metrics.add(session, {"replay_insert_blocked_seconds_total": WAITED_S}, {})
            report.write_records()
    last, now = kept.records
    assert scalars(now, last, replay_servers=2)["charts/actors_waiting"] == 0.0
