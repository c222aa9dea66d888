"""Two configurations side by side."""

from typing import Any

import pytest

from common.config import Config, read_toml, write_toml
from deploy.dashboard.difference import ABSENT, Setting, settings, shown


def test_of_one_run_every_field_is_told_in_the_order_of_the_configuration(tmp_path: Any) -> None:
    write_toml(Config(env="CartPole-v1", seed=3), tmp_path / "config.toml")
    found = settings(read_toml(tmp_path / "config.toml", "test"))
    assert [s.name for s in found] == list(Config.model_fields)
    assert found[0] == Setting("env", "CartPole-v1", "", False)
    assert not any(s.differs for s in found)


def test_of_two_runs_it_is_said_what_differs() -> None:
    found = settings({"env": "A", "seed": 1, "n_step": 3}, {"env": "A", "seed": 2, "n_step": 3})
    assert [s for s in found if s.differs] == [Setting("seed", "1", "2", True)]
    assert [s.name for s in found] == ["env", "seed", "n_step"]


def test_what_one_version_does_not_know_differs_and_comes_last() -> None:
    found = settings({"frobnicate": 1, "seed": 1}, {"seed": 1, "actors": 2})
    assert found == [
        Setting("seed", "1", "1", False),
        Setting("actors", ABSENT, "2", True),
        Setting("frobnicate", "1", ABSENT, True),
    ]


def test_equal_numbers_do_not_differ_and_close_ones_do() -> None:
    found = settings(
        {"learning_rate": 1, "adam_epsilon": 1.00000001},
        {"learning_rate": 1.0, "adam_epsilon": 1.0},
    )
    assert {s.name: s.differs for s in found} == {"learning_rate": False, "adam_epsilon": True}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1_000_000, "1,000,000"),
        (0.00025, "0.00025"),
        (1e-8, "1e-08"),
        ([128, 128], "128 × 128"),
        ([], "[]"),
        ("none", "none"),
        ({"gravity": -9.8}, "{'gravity': -9.8}"),
    ],
)
def test_values_are_shown_nearly_as_toml_has_them(value: Any, text: str) -> None:
    assert shown(value) == text
