"""Presets: each that ships is whole, and one's own is refused in plain words."""

from pathlib import Path

import pytest

from common.atari import AtariProtocol
from common.config import Config
from common.errors import ConfigError
from deploy import presets

CLASSIC = ("acrobot", "cartpole", "lunarlander", "mountaincar")
MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
ATARI = ("beam_rider", "breakout", "pong", "qbert", "seaquest", "space_invaders")
PARTS = ("atari", "atari_paper", "minatar")
"""These leave the environment open."""


def test_the_tasks_that_the_readme_names_have_presets() -> None:
    wanted = {*CLASSIC, *ATARI, *(f"minatar-{game}" for game in MINATAR)}
    assert wanted == set(presets.names())
    assert {*wanted, *PARTS} == set(presets._all_names())


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_an_environment_and_a_budget_of_its_own(name: str) -> None:
    config = presets.load(name)
    assert {"env", "total_env_steps"} <= config.model_fields_set
    # Of most Atari games nobody says when they are solved.
    assert (config.target_return is None) == (name in ATARI and name != "pong")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_no_preset_by_itself_but_is_one_with_an_environment(name: str) -> None:
    assert name not in presets.names()
    with pytest.raises(ConfigError, match=f"preset {name} names no environment.*--env"):
        presets.load(name)
    assert presets.load(name, env="MinAtar/Asterix-v0").env == "MinAtar/Asterix-v0"


@pytest.mark.parametrize("game", MINATAR)
def test_minatar_presets_play_minimal_actions_by_the_games_own_protocol(game: str) -> None:
    config = presets.load(f"minatar-{game}")
    assert config.env == f"MinAtar/{game.title().replace('_', '')}-v1"
    assert config.vectorization == "vector_entry_point"
    assert config.env_kwargs == {"sticky_action_prob": 0.1, "difficulty_ramping": True}
    assert config.reward_clip is None


@pytest.mark.parametrize("game", ATARI)
def test_atari_presets_spell_out_the_whole_protocol_of_today(game: str) -> None:
    config = presets.load(game)
    assert config.env == f"ALE/{game.title().replace('_', '')}-v5"
    assert config.vectorization == "vector_entry_point"
    assert (config.resize, config.greyscale, config.frame_stack) == ((84, 84), True, 4)
    assert (config.reward_clip, config.life_loss_ends_episode) == (1.0, False)
    # The defaults of AtariProtocol, none of them left unsaid.
    assert config.env_kwargs == AtariProtocol().model_dump()


@pytest.mark.parametrize("game", ATARI)
def test_the_papers_protocol_lies_over_any_game(game: str) -> None:
    config, today = presets.load(f"{game}+atari_paper"), presets.load(game)
    assert config.env == today.env
    assert config.life_loss_ends_episode
    changed = {k: v for k, v in config.env_kwargs.items() if today.env_kwargs[k] != v}
    assert changed == {
        "repeat_action_probability": 0.0,
        "noop_max": 30,
        "max_num_frames_per_episode": 50_000,
    }
    assert (config.optimizer, config.learning_rate) == ("rmsprop", 0.00025 / 4)
    assert config.prefetch_batches == 16


@pytest.mark.parametrize(
    ("name", "env", "target"),
    [
        ("cartpole", "CartPole-v1", 475.0),
        ("acrobot", "Acrobot-v1", -100.0),
        ("mountaincar", "MountainCar-v0", -110.0),
        ("lunarlander", "LunarLander-v3", 200.0),
        ("pong", "ALE/Pong-v5", 18.0),
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
        ("minatar_breakout", "did you mean minatar-breakout?"),
        ("cartpole+minatr", "did you mean minatar?"),
        ("pong+atari_papr", "did you mean atari_paper?"),
        ("absent.toml", "path of a .toml file"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_nearest_or_all(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="no preset '" + name.rpartition("+")[2]) as caught:
        presets.load(name)
    assert hint in str(caught.value)


def test_ones_own_file_works_the_same_way(tmp_path: Path) -> None:
    path = write(
        tmp_path, "mine.toml", 'env = "Acrobot-v1"\ntarget_return = -80\nmax_grad_norm = "none"\n'
    )
    expected = Config(env="Acrobot-v1", target_return=-80.0, max_grad_norm=None)
    assert presets.load(path) == expected


def write(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_a_preset_lies_over_its_base_and_that_over_its_own(tmp_path: Path) -> None:
    write(tmp_path, "lowest.toml", 'env = "Lowest-v0"\nbatch_size = 1\nn_step = 1\ndiscount = 0.1')
    write(tmp_path, "middle.toml", 'base = "lowest"\nbatch_size = 2\nn_step = 2')
    top = write(tmp_path, "top.toml", 'base = "middle"\nbatch_size = 3')
    config = presets.load(top)
    assert (config.env, config.batch_size, config.n_step) == ("Lowest-v0", 3, 2)
    assert config.discount == 0.1
    # The environment of the command line takes the place of theirs.
    assert presets.load(top, env="Other-v0").env == "Other-v0"


def test_later_presets_lie_over_earlier_ones(tmp_path: Path) -> None:
    one = write(tmp_path, "one.toml", 'env = "One-v0"\nbatch_size = 1\nn_step = 1')
    two = write(tmp_path, "two.toml", "batch_size = 2")
    config = presets.load(f"{one}+{two}+minatar")
    minatar = presets.load("minatar", env="One-v0")
    assert config.env == "One-v0"
    assert (config.batch_size, config.n_step) == (minatar.batch_size, minatar.n_step)
    assert presets.load(f"minatar+{one}+{two}").batch_size == 2
    # What one layer alone says stays.
    assert presets.load(f"minatar+{one}+{two}").learning_rate == minatar.learning_rate


def test_the_environments_arguments_are_laid_over_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path, "calm.toml", "env_kwargs = { sticky_action_prob = 0.0, seed = 3 }")
    config = presets.load(f"minatar-breakout+{path}")
    assert config.env_kwargs == {"sticky_action_prob": 0.0, "difficulty_ramping": True, "seed": 3}


def test_a_base_is_looked_for_beside_the_file_and_then_among_those_that_ship(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "mine.toml", 'base = "minatar-asterix"\nn_step = 9')
    assert (presets.load(path).env, presets.load(path).n_step) == ("MinAtar/Asterix-v1", 9)
    write(tmp_path, "minatar-asterix.toml", 'env = "Mine-v0"')
    assert presets.load(path).env == "Mine-v0"


def test_a_file_whose_name_holds_a_plus_is_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, "c++.toml", 'env = "Acrobot-v1"')
    assert presets.load(path).env == "Acrobot-v1"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"mine": 'base = "mine"'}, "mine.toml is its own base"),
        ({"mine": 'base = "other"', "other": 'base = "mine"'}, "mine.toml is its own base"),
        ({"mine": 'base = "absent"'}, "cannot read .*absent.toml"),
        ({"mine": 'base = "other"', "other": "n_step 3"}, "other.toml is not TOML"),
        ({"mine": "base = 3"}, "base = 3: must be the name of a preset"),
    ],
)
def test_an_impossible_base_is_refused_with_the_reason(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        write(tmp_path, f"{name}.toml", text)
    with pytest.raises(ConfigError, match=reason) as caught:
        presets.load(str(tmp_path / "mine.toml"))
    assert "preset" in str(caught.value)


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
    path = write(tmp_path, "mine.toml", text)
    with pytest.raises(ConfigError, match=reason) as caught:
        presets.load(path)
    assert "mine.toml" in str(caught.value)
