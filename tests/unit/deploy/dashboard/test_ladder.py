"""ε of each environment beside its returns."""

from typing import Any

import pytest

from common.config import Config
from deploy.dashboard.ladder import MAX_RUNGS, Rung, ladder

CONFIG = Config(actors=2, envs_per_actor=2)


def actor(number: int, first: int, count: int = 2, **returns: float) -> dict[str, Any]:
    """`returns`: e0=… is that of its environment 0."""
    told = {name.removeprefix("e"): value for name, value in returns.items()}
    return {
        "role": "actor", "number": number, "first_env_index": first, "num_envs": count,
        "returns": told, "values": {},
    }  # fmt: skip


def test_every_environment_stands_at_its_place_with_what_it_earns() -> None:
    members = [actor(1, 2, e1=40.0), {"role": "evaluator", "num_envs": 0}, actor(0, 0, e0=10.0)]
    found = ladder(members, CONFIG)
    assert [(r.actor, r.env, r.episode_return) for r in found] == [
        (0, 0, 10.0), (0, 1, None), (1, 2, None), (1, 3, 40.0)
    ]  # fmt: skip
    # 0.4^(1 + 7·i/3): docs/journey.md, section 1.
    assert [r.epsilon for r in found] == pytest.approx([0.4, 0.0472, 0.00556, 0.000655], rel=1e-2)


def test_actors_that_joined_by_hand_lengthen_the_ladder() -> None:
    # Places 0–1 and 6–7 of M = 8: 0.4^(1 + 7·7/7) = 0.4^8.
    found = ladder([actor(0, 0), actor(3, 6)], CONFIG)
    assert found[-1].epsilon == pytest.approx(0.4**8)
    assert [r.env for r in found] == [0, 1, 6, 7]


def test_too_many_environments_become_one_point_for_each_actor() -> None:
    count = MAX_RUNGS // 2 + 1
    config = Config(actors=2, envs_per_actor=count)
    found = ladder([actor(0, 0, count, e0=1.0, e5=4.0), actor(1, count, count)], config)
    assert found == [
        Rung(0, None, found[0].epsilon, 2.5),  # (1 + 4) / 2
        Rung(1, None, found[1].epsilon, None),
    ]
    alone = [0.4 ** (1 + 7 * i / (2 * count - 1)) for i in range(count)]
    assert found[0].epsilon == pytest.approx(sum(alone) / count)


def test_nobody_there_no_ladder() -> None:
    assert ladder([], CONFIG) == []
    assert ladder([{"role": "learner"}], CONFIG) == []
