"""What `scale` makes of its readings, and what docs/scaling.md says of it."""

import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from tests.benchmarks.markdown import read_groups
from tests.benchmarks.report import Figure
from tests.benchmarks.scale.actors import HostReading
from tests.benchmarks.scale.costs import Line, cost_figures, line
from tests.benchmarks.scale.head import HeadReading
from tests.benchmarks.scale.model import UNITS, Costs, Size, needs, refreshed
from tests.benchmarks.scale.plan import Plan, paper_workload
from tests.benchmarks.scale.running import Measured, Reading, ServerReading, Traffic, measured
from tests.benchmarks.scale.weights import Broadcast
from tests.tcp_bytes import Carried

DOCS = Path(__file__).parents[3] / "docs"
PLAN = Plan(paper_workload("frames"), actors=5)


# -------------------------------------------------------------------------------------------- plan


def test_actors_are_divided_evenly_and_no_host_is_empty() -> None:
    assert PLAN.actors_of_host == [3, 2]
    assert replace(PLAN, actors=1).actors_of_host == [1]
    assert replace(PLAN, actors=1000, hosts=3).actors_of_host == [334, 333, 333]


def test_an_actor_inserts_its_transitions_fifty_at_a_time() -> None:
    assert replace(PLAN, transitions_per_s=100.0).inserts_per_s == 2.0
    assert replace(PLAN, transitions_per_s=None).inserts_per_s is None


def test_a_plan_is_the_papers_free_run_of_its_link_and_servers() -> None:
    config = replace(PLAN, link="wire", replay_servers=2).manifest.config
    assert (config.actors, config.replay_servers, config.replay_link) == (5, 2, "wire")
    assert (config.samples_per_insert, config.block_length, config.frame_stack) == (None, 50, 4)


# -------------------------------------------------------------------------------------- the window


def _head(at_s: float, batches: int, due: int, cpu_s: float, **changes: object) -> HeadReading:
    cpu = {"control": cpu_s, "zeromq": 2 * cpu_s, "feed": 3 * cpu_s}
    reading = HeadReading(at_s, cpu, 300, 100, due, batches, batches, {}, 0)
    return replace(reading, **changes)  # type: ignore[arg-type]


def _host(at_s: float, due: int, done: int, cpu_s: float, **changes: object) -> HostReading:
    reading = HostReading(at_s, cpu_s, 50, due, done, [], {}, 0)
    return replace(reading, **changes)  # type: ignore[arg-type]


def _traffic(at_s: float, control: int, inserts: int, batches: int) -> Traffic:
    return Traffic(
        at_s, Carried(5, control, control), Carried(5, inserts, 9), Carried(1, 30, batches)
    )


def test_a_window_is_what_lies_between_its_readings() -> None:
    first = Reading(
        _head(10.0, 20, 30, 1.0, versions={0: 5.0}),
        [ServerReading(1.0, 900, 800), ServerReading(2.0, 500, 400)],
        [_host(10.0, 100, 90, 1.0), _host(10.0, 0, 0, 0.0)],
    )
    last = Reading(
        _head(12.0, 50, 60, 1.2, versions={0: 5.0, 1: 11.0}),
        [ServerReading(1.5, 1_000, 900), ServerReading(2.5, 600, 500)],
        [
            _host(12.0, 140, 110, 1.5, ack_s=[0.25, 0.75], versions={0: 6.0, 1: 11.5}),
            _host(14.0, 40, 40, 0.5, ack_s=[0.5], versions={1: 11.1}),
        ],
    )
    window = measured(PLAN, first, last, _traffic(9.0, 0, 0, 0), _traffic(13.0, 80, 1_500, 70))

    # Each host by its own clock: 40 inserts of 50 transitions in 2 s, and 40 in 4 s.
    assert window.offered_per_s == 50 * (40 / 2 + 40 / 4)
    assert window.stored_per_s == 50 * (20 / 2 + 40 / 4)
    assert (window.batches_due_per_s, window.batches_per_s) == (15.0, 15.0)
    assert (window.ack_p50_s, window.ack_max_s) == (0.5, 0.75)
    assert window.control == pytest.approx(0.1)
    assert window.zeromq == pytest.approx(0.2)
    assert window.feed == pytest.approx(0.3)
    assert (window.replay, window.simulators) == (0.5, 0.5)
    assert (window.head_bytes, window.replay_bytes) == (200, 1_600)
    # Version 0 was there before.
    assert window.weights_p50_s == pytest.approx(0.3)
    assert window.weights_max_s == pytest.approx(0.5)
    assert window.insert_bytes == 1_500 / 150
    assert window.batch_bytes == (30 + 70) / 50
    assert window.control_bytes_per_s == 160 / 4 / 5


def test_a_window_without_any_acknowledgement_has_no_times() -> None:
    reading = Reading(_head(1.0, 0, 0, 0.0), [], [_host(1.0, 0, 0, 0.0)])
    later = Reading(_head(2.0, 0, 19, 0.0), [], [_host(2.0, 10, 0, 0.0)])
    window = measured(PLAN, reading, later, _traffic(0.0, 0, 0, 0), _traffic(3.0, 0, 0, 0))
    assert (window.stored_per_s, window.offered_per_s) == (0.0, 500.0)
    assert math.isnan(window.ack_p99_s)
    assert math.isnan(window.weights_p50_s)


# ------------------------------------------------------------------------------------------- costs


def _measured(**values: float) -> Measured:
    zero = {field.name: 0.0 for field in fields(Measured)}
    return Measured(**{**zero, "batches_per_s": 20.0, **values})  # type: ignore[arg-type]


def test_a_line_is_no_less_than_nothing() -> None:
    assert line([0.0, 10.0], [1.0, 21.0]) == pytest.approx(Line(1.0, 2.0))
    assert line([10.0, 20.0], [1.0, 3.0]).at_zero == 0.0
    with pytest.raises(ValueError, match="two sizes"):
        line([5.0, 5.0], [1.0, 2.0])


def test_costs_are_slopes_over_the_runs_that_were_held() -> None:
    def of(actors: int) -> Measured:
        return _measured(
            offered_per_s=50.0 * actors,
            stored_per_s=50.0 * actors,
            control=0.01 + 2e-4 * actors,
            zeromq=1e-4 * actors,
            head_bytes=300e6 + 2e4 * actors,
            # 10 µs for a transition, 5 ms for each of 20 batches.
            replay=0.1 + 1e-5 * 50.0 * actors,
            feed=0.2,
            insert_bytes=20_000.0,
            control_bytes_per_s=500.0,
        )

    behind = replace(of(1000), stored_per_s=1.0, control=9.0, replay=9.0)
    by_wire = _measured(stored_per_s=1_000.0, replay=0.01 + 0.4, feed=0.6, batch_bytes=1e6)
    of_16 = _measured(stored_per_s=10_000.0, replay=0.1 + 0.02)
    direct = Broadcast(sent=270e6, head_cpu_s=0.1, reached_s=1.0)
    runs = {10: of(10), 100: of(100), 1000: behind}

    found = Costs.of(cost_figures(runs, by_wire, of_16, 50, direct, subscribers=20))

    expected = Costs(
        head_idle=1.0,
        head_per_actor=300.0,
        head_memory=300.0,
        head_memory_per_actor=20.0,
        weights_per_subscriber=5.0,
        weights_bytes=13.5,
        feed_per_batch_shared_memory=10.0,
        feed_per_batch_wire=30.0,
        replay_per_batch_shared_memory=5.0,
        replay_per_batch_wire=20.0,
        replay_per_transition_of_1=10.0,
        replay_per_transition_of_16=2.0,
        insert_bytes_per_transition=400.0,
        batch_bytes_wire=1.0,
        control_bytes_per_actor=500.0,
    )
    assert asdict(found) == pytest.approx(asdict(expected))


@pytest.mark.parametrize("behind", ["stored_per_s", "batches_per_s"])
def test_there_are_no_costs_of_a_run_that_fell_behind(behind: str) -> None:
    held = _measured(stored_per_s=10.0, offered_per_s=10.0, batches_due_per_s=20.0)
    direct = Broadcast(sent=1.0, head_cpu_s=0.1, reached_s=1.0)
    late = replace(held, **{behind: 1.0})
    with pytest.raises(ValueError, match="by wire was not held"):
        cost_figures({1: held, 2: held}, late, held, 50, direct, subscribers=1)


# ------------------------------------------------------------------------------------------- model

COSTS = Costs(
    head_idle=1.0,
    head_per_actor=100.0,
    head_memory=300.0,
    head_memory_per_actor=20.0,
    weights_per_subscriber=10.0,
    weights_bytes=10.0,
    feed_per_batch_shared_memory=5.0,
    feed_per_batch_wire=10.0,
    replay_per_batch_shared_memory=2.0,
    replay_per_batch_wire=20.0,
    replay_per_transition_of_1=10.0,
    replay_per_transition_of_16=1.0,
    insert_bytes_per_transition=400.0,
    batch_bytes_wire=1.0,
    control_bytes_per_actor=500.0,
)


def test_a_run_needs_the_sum_of_what_its_parts_cost() -> None:
    """The paper's: 12,500 transitions/s, 19 batches/s, 0.76 versions/s."""
    found = needs(COSTS, Size("", 360, 1, hosts=10, capacity=1_000))
    assert found.transitions_per_s == pytest.approx(12_500)
    assert found.insert_bytes_per_s == pytest.approx(5e6)
    assert found.weights_bytes_per_s == pytest.approx(10 * 0.76 * 10e6)
    assert found.weights_bytes_per_s_without_relay == pytest.approx(360 * 0.76 * 10e6)
    assert found.control_bytes_per_s == 180_000
    assert found.batch_bytes_per_s == 0.0
    assert found.replay_cores == pytest.approx(0.125 + 19 * 0.002)
    assert found.replay_servers == 1
    assert found.head_cores == pytest.approx(0.01 + 0.036 + 19 * 0.005 + 7.6 * 0.01)
    assert found.head_bytes == pytest.approx(307.2e6)
    # 56 rows of 7,056 bytes, and what stands beside them, for 50 transitions.
    assert found.replay_bytes == pytest.approx(1_000 * 56 * 7_056 / 50, rel=0.01)


def test_what_one_replay_server_cannot_take_is_divided_and_batches_come_by_wire() -> None:
    found = needs(COSTS, Size("", 6_250, 16, hosts=200))
    cores = 6_250 * 16 * 12_500 / 360 * 1e-6 + 19 * 0.020
    assert found.replay_cores == pytest.approx(cores)
    assert found.replay_servers == math.ceil(cores / 0.7)
    assert found.batch_bytes_per_s == 19e6


def test_costs_that_were_not_measured_are_missed_by_name() -> None:
    with pytest.raises(KeyError, match=r"scale\.cost\.head_idle"):
        Costs.of([Figure("scale.other", 1.0, "s")])


def test_every_cost_has_a_unit() -> None:
    assert list(UNITS) == [field.name for field in fields(Costs)]


# -------------------------------------------------------------------------------------------- page


def test_the_page_says_what_was_measured() -> None:
    """Made again by `python -m tests.benchmarks all --names scale --markdown`."""
    page = (DOCS / "scaling.md").read_text()
    scale = read_groups(DOCS / "benchmarks.json")["scale"]
    assert refreshed(page, Costs.of(scale.figures)) == page


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="table of costs"):
        refreshed("nothing", COSTS)
