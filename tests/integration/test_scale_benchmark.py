"""The simulated actors of `python -m tests.benchmarks scale` against real servers: what they do is
what servers take for actors' doings."""

from dataclasses import replace

import pytest

from tests.benchmarks.scale.join import join_times
from tests.benchmarks.scale.plan import Plan, Receivers, paper_workload
from tests.benchmarks.scale.running import running, wait_for
from tests.benchmarks.scale.weights import broadcast
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACTORS = 5


def _plan(observations: str) -> Plan:
    plan = Plan(paper_workload(observations), ACTORS, transitions_per_s=500.0)
    return replace(plan, workload=replace(plan.workload, capacity=1 << 14))


@pytest.mark.parametrize(
    "plan",
    [
        _plan("frames"),
        replace(_plan("frames"), link="wire", weights_to="actors"),
        replace(_plan("vectors"), replay_servers=2, weights_to="relay"),
        replace(_plan("vectors"), transitions_per_s=None, batches_per_s=None),
    ],
    ids=["shared memory", "wire", "two servers and a relay", "as fast as they can"],
)
def test_experience_weights_and_batches_move_and_are_counted(plan: Plan) -> None:
    with running(plan) as run:
        run.pace()

        def moved() -> bool:
            seen = run.read()
            hosts = seen.hosts
            weights = all(host.complete_versions > 1 for host in hosts)
            return weights and seen.head.batches > 5 and all(host.inserts > 20 for host in hosts)

        wait_until(moved, "inserts, batches and weights have moved", limit_s=300)
        inserts = sum(host.inserts for host in run.read().hosts)
        actors = wait_for(run.address, "actor", ACTORS, lambda values: bool(values))
        servers = wait_for(
            run.address,
            "replay_server",
            plan.replay_servers,
            lambda values: values.get("replay_inserted_blocks_total", 0) > 0,
        )
        traffic = run.traffic()
    # Servers tell once a second: what the actors knew of is there before long.
    assert len(servers) == plan.replay_servers
    assert not any(values["replay_duplicates_total"] for values in servers)
    assert not any(values["replay_rejected_messages_total"] for values in servers)
    assert not any(values["actor_rejected_messages_total"] for values in actors)
    assert inserts > 0
    assert traffic.inserts.connections == ACTORS
    assert traffic.inserts.sent > 0
    assert traffic.control.connections >= ACTORS + plan.replay_servers
    assert traffic.batches.received > 0


@pytest.mark.parametrize(("to", "times"), [("actors", ACTORS), ("relay", 1)])
def test_a_relay_takes_each_version_once(to: Receivers, times: int) -> None:
    version = broadcast(1, "actors", versions=1).sent
    sent = broadcast(ACTORS, to, versions=1).sent
    # Whoever is slow may have an acknowledgement or a heartbeat more on the way.
    assert sent == pytest.approx(times * version, rel=0.01)


def test_a_real_actor_joins_the_simulated_ones() -> None:
    (joined,) = join_times(ACTORS, rounds=1)
    assert 0.0 < joined.welcome_s < joined.acting_s < joined.accepted_s
