"""Actors are spread over replay servers, and stay where they are when they can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.assignment import assign


@pytest.mark.parametrize(
    ("weights", "current", "servers", "assigned"),
    [
        pytest.param({1: 8}, {}, [0], {1: 0}, id="one and one"),
        pytest.param({1: 8, 2: 8}, {}, [0, 1], {1: 0, 2: 1}, id="the next goes to the emptier one"),
        pytest.param({1: 8, 2: 8, 3: 8, 4: 8}, {}, [0, 1], {1: 0, 2: 1, 3: 0, 4: 1}, id="in turn"),
        pytest.param(
            {1: 2, 2: 2, 3: 4}, {}, [0, 1], {3: 0, 1: 1, 2: 1}, id="the largest are placed first"
        ),
        pytest.param({1: 8, 2: 8}, {1: 1, 2: 0}, [0, 1], {1: 1, 2: 0}, id="all stay"),
        pytest.param({1: 8, 2: 8}, {1: 0, 2: 1}, [0], {1: 0, 2: 0}, id="a server is gone"),
        pytest.param({1: 8, 2: 8}, {1: 0, 2: 0}, [0, 1], {1: 1, 2: 0}, id="a server came back"),
        pytest.param({1: 8}, {1: 0}, [0, 1], {1: 0}, id="a lone actor does not wander"),
        pytest.param(
            {1: 8, 2: 8, 3: 8}, {1: 0, 2: 0, 3: 1}, [0, 1], {1: 0, 2: 0, 3: 1}, id="two and one"
        ),
        pytest.param(
            {1: 1, 2: 5, 3: 4}, {1: 0, 2: 0, 3: 0}, [0, 1], {1: 0, 2: 1, 3: 0}, id="one, not two"
        ),
        pytest.param({1: 8, 2: 8}, {1: 3}, [], {1: 3}, id="no server at all: nobody moves"),
        pytest.param({1: 8}, {1: 0, 9: 1}, [0, 1], {1: 0}, id="an actor that is gone is forgotten"),
    ],
)
def test_who_writes_where(
    weights: dict[int, int], current: dict[int, int], servers: list[int], assigned: dict[int, int]
) -> None:
    assert assign(weights, current, servers) == assigned


@given(
    st.dictionaries(st.integers(0, 50), st.integers(1, 32), max_size=12),
    st.dictionaries(st.integers(0, 50), st.integers(0, 5), max_size=12),
    st.sets(st.integers(0, 5), min_size=1),
)
def test_no_single_move_would_bring_two_servers_closer_and_nobody_moves_twice(
    weights: dict[int, int], current: dict[int, int], servers: set[int]
) -> None:
    assigned = assign(weights, current, servers)
    assert assigned.keys() == weights.keys()
    assert set(assigned.values()) <= servers
    load = {s: sum(w for a, w in weights.items() if assigned[a] == s) for s in servers}
    gap = max(load.values()) - min(load.values())
    fullest = [s for s in servers if load[s] == max(load.values())]
    if len(fullest) == 1:
        assert all(weights[a] >= gap for a, s in assigned.items() if s == fullest[0])
    # Balanced already: asked again, all stay.
    assert assign(weights, assigned, servers) == assigned
