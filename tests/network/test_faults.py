"""A run goes through what happens to its network, and comes out with everything that it had.

The tests of the first part put one run through one thing after the other, in seconds, with
processes that give up a connection after 2 s instead of 15. The last looks at what was stored.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.runs import until
from tests.network.cluster import Cluster
from tests.network.faults import FAULTS, measure, own_bytes
from tests.network.lab import Lab

LAG = 60
"""Updates that an actor may be behind when all is well: 2 s."""
BOUND_BYTES = 100 << 20
"""What a process may need more than before: what Python and its allocators do not give back."""


def more(count: Callable[[], int], than: int) -> Callable[[], bool]:
    return lambda: count() > than


def fewer(count: Callable[[], int], than: int) -> Callable[[], bool]:
    return lambda: 0 <= count() < than


def said(cluster: Cluster, name: str, text: str) -> int:
    """Lines of a process's log with that text."""
    return sum(text in line for line in cluster.log(name).splitlines())


def both_belong(cluster: Cluster) -> bool:
    """Whether both actors belong to the run."""
    return cluster.number("near") is not None and cluster.number("far") is not None


def test_a_partition_costs_the_far_actor_its_time_and_nobody_anything_else(
    cluster: Cluster,
) -> None:
    until(lambda: cluster.updates() > 20 and both_belong(cluster), "a run with two actors")
    before = {name: own_bytes(cluster.process(name)) for name in cluster.commands}
    lines = len(cluster.log("far").splitlines())
    gone = f"actor {cluster.number('far')} ("
    missed = said(cluster, "learner", gone)
    cluster.far.cut()
    updates = cluster.status_now()["learner"]["updates"]
    # Its weights grow old, and the head says so, until it says that the actor is gone.
    until(lambda: cluster.lag("far") >= cluster.updates() - updates > 5, "a lag to be reported")
    until(lambda: said(cluster, "learner", gone) > missed, "the far actor to be missed")
    for lost in ("tcp://head", f"tcp://{cluster.replay.address}"):
        text = f"lost the connection to {lost}"
        until(functools.partial(said, cluster, "far", text), "the far actor to miss them")
    rows, updates, near = cluster.rows("far"), cluster.updates(), cluster.rows("near")
    until(more(lambda: cluster.rows("near"), near + 200), "the near actor to go on")
    until(more(cluster.updates, updates + 10), "the learner to go on")
    assert cluster.rows("far") == rows

    cluster.far.rejoin()
    until(more(lambda: cluster.rows("far"), rows + 200), "the far actor to go on")
    until(lambda: both_belong(cluster), "the far actor to belong to the run again")
    until(fewer(lambda: cluster.lag("far"), LAG), "new weights to reach it")
    assert cluster.all_run()
    # A line for going and one for coming back, of two connections and of the head; two of how it
    # joined again; and as many for each time that a busy machine made it miss the head.
    assert len(cluster.log("far").splitlines()) - lines <= 20, cluster.log("far")
    for name, size in before.items():
        assert own_bytes(cluster.process(name)) < size + BOUND_BYTES, name


def test_a_host_that_vanished_leaves_nothing_behind(cluster: Cluster) -> None:
    """Nobody closed its connections: the others find out."""
    until(lambda: both_belong(cluster), "a run with two actors")
    learner, replay = cluster.process("learner"), cluster.process("replay_server")
    before = learner.num_fds(), replay.num_fds()
    FAULTS["vanished"].begin(cluster)
    until(lambda: cluster.number("far") is None, "it to be missed")
    # It had two connections to the head and one to the replay server.
    until(lambda: learner.num_fds() <= before[0] - 2, "the learner to close its connections")
    until(lambda: replay.num_fds() <= before[1] - 1, "the replay server to close its connection")
    rows = cluster.rows("far")
    FAULTS["vanished"].end(cluster)
    until(more(lambda: cluster.rows("far"), rows + 200), "the next actor's rows")
    until(lambda: both_belong(cluster), "the next actor to belong to the run")
    # Its place on the ladder was not left to a ghost.
    assert {cluster.number("near"), cluster.number("far")} == {0, 1}
    until(lambda: learner.num_fds() <= before[0], "no more files in the learner than before")
    until(lambda: replay.num_fds() <= before[1], "no more in the replay server")


def test_a_head_is_found_again_at_another_address(cluster: Cluster) -> None:
    updates = cluster.updates()
    cluster.lose_head()
    cluster.move_head()
    # All of them: whoever looked the name up once would wait at the old address for ever.
    until(lambda: len(cluster.status()["members"]) == 3, "everybody to join the new head")
    until(more(cluster.updates, updates), "the learner to go on")
    for name in ("near", "far"):
        lag = functools.partial(cluster.lag, name)
        until(fewer(lag, LAG), f"its weights to reach the {name} actor")
        rows = functools.partial(cluster.rows, name)
        until(more(rows, rows() + 200), f"the {name} actor to go on")
    assert cluster.all_run()


def test_nothing_was_lost_and_nothing_counted_twice(cluster: Cluster) -> None:
    cluster.stop()
    assert cluster.stored.lost() == 0
    assert cluster.stored.doubled() == 0
    assert cluster.stored.counted > 1_000


# ------------------------------------------------------------------- with the times that users have


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_recovers(name: str, lab: Lab, tmp_path: Path) -> None:
    fault = FAULTS[name]
    with Cluster(lab, tmp_path, shape=fault.shape) as cluster:
        finding = measure(cluster, fault, before_s=10.0, seconds=60.0)
        assert finding.lost == 0
        assert finding.doubled == 0
        # "Within seconds": the far actor tries again every 3 s at most.
        assert finding.recovery_s < 20.0
        assert max(finding.grown_mb.values()) < BOUND_BYTES / 1e6
        # A line for going and one for coming back, not thousands.
        for process in cluster.commands:
            assert len(cluster.log(process).splitlines()) < 100, cluster.log(process)[-5_000:]
