"""Presets: each that ships is whole, and one's own is refused in plain words."""

from pathlib import Path

import pytest

from common.config import Config
from common.errors import ConfigError
from deploy import presets


def test_the_four_classic_tasks_have_presets() -> None:
    assert {"acrobot", "cartpole", "lunarlander", "mountaincar"} <= set(presets.names())


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_a_target_and_a_budget_of_its_own(name: str) -> None:
    config = presets.load(name)
    assert config.target_return is not None
    assert "total_env_steps" in config.model_fields_set
    assert "env" in config.model_fields_set


@pytest.mark.parametrize(
    ("name", "env", "target"),
    [
        ("cartpole", "CartPole-v1", 475.0),
        ("acrobot", "Acrobot-v1", -100.0),
        ("mountaincar", "MountainCar-v0", -110.0),
        ("lunarlander", "LunarLander-v3", 200.0),
    ],
)
def test_targets_are_those_at_which_the_field_calls_a_task_solved(
    name: str, env: str, target: float
) -> None:
    config = presets.load(name)
    assert (config.env, config.target_return) == (env, target)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cartpol", "did you mean cartpole?"),
        ("cart-pole", "did you mean cartpole?"),
        ("xyz", "cartpole"),
        ("absent.toml", "path of a .toml file"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_nearest_or_all(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no preset {name!r}") as caught:
        presets.load(name)
    assert hint in str(caught.value)


def test_ones_own_file_works_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('env = "Acrobot-v1"\ntarget_return = -80\nmax_grad_norm = "none"\n')
    expected = Config(env="Acrobot-v1", target_return=-80.0, max_grad_norm=None)
    assert presets.load(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("batch_sise = 3\n", "unknown key 'batch_sise'; did you mean batch_size"),
        ("discount = 3\n", "discount = 3: .*less than or equal to 1"),
        ("[algorithm]\ndiscount = 0.9\n", "unknown key 'algorithm'"),
        ("discount 0.9\n", "is not TOML"),
    ],
)
def test_ones_own_file_is_refused_with_its_name_and_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        presets.load(str(path))
    assert "mine.toml" in str(caught.value)
