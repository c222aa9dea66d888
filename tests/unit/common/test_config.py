"""The configuration: what is refused and in which words; none; files that read back the same."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import Config, config_from_mapping, read_toml, write_toml
from common.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("batch_size", 0, "greater than or equal to 1"),
        ("batch_size", 2.5, "valid integer"),
        ("batch_size", "many", "valid integer"),
        ("total_env_steps", -5, "greater than or equal to 1"),
        ("total_env_steps", 10**20, f"less than {1 << 53}"),
        ("replay_capacity", 10**23, f"less than {1 << 53}"),
        ("learner_threads", 100_000, "less than or equal to 1024"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 1 << 31, f"less than {1 << 31}"),
        ("n_step", 0, "greater than or equal to 1"),
        ("n_step", 256, "less than or equal to 255"),
        ("insert_window", 65, "less than or equal to 64"),
        ("prefetch_batches", 65, "less than or equal to 64"),
        ("discount", 1.01, "less than or equal to 1"),
        ("discount", -0.1, "greater than or equal to 0"),
        ("discount", math.nan, "less than or equal to 1"),
        ("epsilon_base", 1.5, "less than or equal to 1"),
        ("epsilon_alpha", math.inf, "finite number"),
        ("learning_rate", 0.0, "greater than 0"),
        ("learning_rate", math.inf, "finite number"),
        ("learning_rate", math.nan, "finite number"),
        ("priority_epsilon", 0.0, "greater than 0"),
        ("priority_exponent", 2.0, "less than or equal to 1"),
        ("reward_clip", -1.0, "greater than 0"),
        ("reward_clip", "nil", "valid number"),
        ("reward_clip", 1e13, "less than or equal to 1000000000000"),
        ("reward_clip", math.nan, "less than or equal to 1000000000000"),
        ("env_step_timeout", 0.0, "greater than 0"),
        ("env_step_timeout", math.inf, "finite number"),
        ("env_make_timeout", -1.0, "greater than 0"),
        ("actor_memory_limit", 0.0, "greater than 0"),
        ("max_grad_norm", 0.0, "greater than 0"),
        ("samples_per_insert", 0.0, "greater than 0"),
        ("target_return", "high", "valid number"),
        # A score never reaches it, and no file or message brings it back equal to itself.
        ("target_return", math.nan, "finite number"),
        ("optimizer", "sgd", "'adam' or 'rmsprop'"),
        ("loss", "l1", "'huber' or 'squared'"),
        ("vectorization", "threads", "'sync', 'async', 'vector_entry_point' or 'envpool'"),
        ("autoreset", "disabled", "'next_step' or 'same_step'"),
        ("publish_dtype", "float64", "'float32' or 'float16'"),
        ("memory_format", "nhwc", "'auto', 'contiguous' or 'channels_last'"),
        ("autocast", "float8", "'auto', 'off', 'bfloat16' or 'float16'"),
        ("dueling", "perhaps", "valid boolean"),
        ("env_kwargs", [1, 2], "valid dictionary"),
        ("env", 3, "valid string"),
    ],
)
def test_an_impossible_value_is_refused_with_key_value_and_what_is_allowed(
    key: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({key: value}, "preset mine")
    message = str(caught.value)
    assert message.startswith(f"preset mine: {key} = {value!r}: ")
    assert allowed in message
    assert "\n" not in message


def test_a_layer_of_more_units_than_any_memory_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_sizes = 65537: .* less than or equal to 65536"):
        config_from_mapping({"hidden_sizes": [128, 65_537]}, "preset mine")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"device": "cpu", "cuda_graph": True}, "cuda_graph = true needs device = cuda, not cpu"),
        ({"device": "mps", "cuda_graph": True}, "cuda_graph = true needs device = cuda, not mps"),
        (
            {"device": "cpu", "autocast": "float16"},
            "autocast = float16 needs device = cuda, not cpu: choose bfloat16 or off",
        ),
        (
            {"device": "cuda:1", "cuda_graph": True, "autocast": "float16"},
            "cuda_graph = true cannot record autocast = float16, whose steps the host judges",
        ),
    ],
)
def test_what_the_device_cannot_do_is_refused_in_one_line(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values, "p")
    assert str(caught.value).startswith(f"p: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize("option", [{"cuda_graph": True}, {"autocast": "float16"}])
def test_what_a_gpu_can_do_is_accepted_where_there_may_be_one(
    device: str, option: dict[str, Any]
) -> None:
    config_from_mapping({"device": device, **option}, "p")


def test_an_impossible_element_is_refused_under_its_key() -> None:
    with pytest.raises(ConfigError, match=r"hidden_sizes = 0: .*greater than or equal to 1"):
        config_from_mapping({"hidden_sizes": [128, 0]}, "p")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rat", "learning_rate"),
        ("lerning-rate", "learning_rate"),
        ("gamma_discount", "discount"),
        ("nstep", "n_step"),
        ("target_update", "target_update_period"),
        ("env_args", "env_kwargs"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({key: 1}, "preset mine")
    assert str(caught.value) == f"preset mine: unknown key {key!r}; did you mean {nearest}?"


def test_a_key_that_resembles_nothing_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"zzz": 1}, "p")
    assert str(caught.value) == "p: unknown key 'zzz'"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"batch_size": 513, "replay_capacity": 512, "min_size_to_sample": 1},
            ["batch_size = 513", "replay_capacity = 512"],
        ),
        (
            {"min_size_to_sample": 2000, "replay_capacity": 1999},
            ["min_size_to_sample = 2000", "replay_capacity = 1999"],
        ),
        (
            {"envs_per_actor": 16, "block_length": 64, "replay_capacity": 1023},
            ["replay_capacity = 1023", "envs_per_actor × block_length = 1024"],
        ),
        (
            {"batch_size": 512, "samples_per_insert_tolerance": 255},
            ["samples_per_insert_tolerance = 255", "half of batch_size = 512"],
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_both(
    values: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values, "command line")
    for part in ["command line: ", *named]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 512, "replay_capacity": 1024, "min_size_to_sample": 1024},
        {"batch_size": 512, "samples_per_insert_tolerance": 256},
        # Without a limiter its tolerance is nobody's business.
        {"batch_size": 512, "samples_per_insert_tolerance": 1, "samples_per_insert": "none"},
        {"discount": 0.0},
        {"discount": 1.0},
        {"epsilon_base": 0.0},
        {"hidden_sizes": []},
        {"seed": (1 << 31) - 1},
        {"confirm_episodes": 0},
        {"target_return": -110},
    ],
)
def test_values_at_the_edge_are_taken(values: dict[str, Any]) -> None:
    config = config_from_mapping(values, "p")
    for key, value in values.items():
        expected = None if value == "none" else value
        assert getattr(config, key) == (tuple(expected) if expected == [] else expected)


@pytest.mark.parametrize("word", ["none", "None", "NONE"])
@pytest.mark.parametrize(
    "key", ["reward_clip", "target_return", "max_grad_norm", "samples_per_insert"]
)
def test_none_switches_off(key: str, word: str) -> None:
    assert getattr(config_from_mapping({key: word}, "p"), key) is None


@pytest.mark.parametrize("key", ["batch_size", "discount", "hidden_sizes"])
def test_what_cannot_be_switched_off_is_not(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 'none'"):
        config_from_mapping({key: "none"}, "p")


def test_the_defaults_are_the_papers_where_it_gives_a_number() -> None:
    """Horgan et al. 2018, section 4.1 and the appendix: ε = 0.4, α = 7; priority exponent 0.6,
    importance-sampling exponent 0.4; three-step returns; batches of 512; gradients clipped to 40;
    target copied every 2,500 updates; centred RMSProp with decay 0.95 and ε = 1.5e-7."""
    config = Config()
    assert (config.epsilon_base, config.epsilon_alpha) == (0.4, 7.0)
    assert (config.priority_exponent, config.importance_sampling_exponent) == (0.6, 0.4)
    assert (config.n_step, config.batch_size, config.discount) == (3, 512, 0.99)
    assert (config.max_grad_norm, config.target_update_period) == (40.0, 2_500)
    assert (config.rmsprop_decay, config.rmsprop_epsilon) == (0.95, 1.5e-7)
    assert config.double
    assert config.dueling
    assert config.prioritized


@pytest.mark.parametrize(
    ("capacity", "length", "slots"), [(1024, 64, 16), (1025, 64, 17), (1087, 64, 17)]
)
def test_the_capacity_is_rounded_up_to_whole_blocks(capacity: int, length: int, slots: int) -> None:
    config = Config(replay_capacity=capacity, block_length=length, min_size_to_sample=1)
    assert config.replay_slots == slots


def test_the_tolerance_is_sixteen_batches_or_twice_an_insert() -> None:
    # 2 · 16 · 64 · 32 = 65,536 samples; 16 · 512 = 8,192; with 1 sample per insert 2 · 1,024.
    assert Config().limiter_tolerance == 65_536.0
    assert Config(samples_per_insert=1.0).limiter_tolerance == 8_192.0
    assert Config(samples_per_insert=None).limiter_tolerance == 8_192.0
    assert Config(samples_per_insert_tolerance=300.0).limiter_tolerance == 300.0


def test_the_ladder_expects_all_actors_environments() -> None:
    assert Config(actors=3, envs_per_actor=5).expected_envs == 15


# -------------------------------------------------------------------------------------------- files

json_values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def round_trip(config: Config, directory: Path) -> Config:
    path = directory / "config.toml"
    write_toml(config, path)
    return config_from_mapping(read_toml(path, "config"), "config")


def test_every_value_in_force_is_in_the_file_and_reads_back(tmp_path: Path) -> None:
    config = Config(
        reward_clip=1.0,
        target_return=None,
        max_grad_norm=None,
        hidden_sizes=(),
        learning_rate=6.25e-5,
        env_kwargs={"map_name": "8x8", "slippery": False, "sizes": [1, 2.5]},
    )
    assert round_trip(config, tmp_path) == config
    written = (tmp_path / "config.toml").read_text()
    for key in Config.model_fields:
        assert key in written


@pytest.mark.parametrize("env_kwargs", [{"map_name": None}, {"options": [None, {"seed": None}]}])
def test_a_null_among_the_environments_arguments_reads_back(
    tmp_path: Path, env_kwargs: dict[str, Any]
) -> None:
    """`--env-kwargs '{"map_name": null}'` says something else than leaving it out; TOML has no
    null."""
    config = Config(env_kwargs=env_kwargs)
    assert round_trip(config, tmp_path) == config


@settings(max_examples=60)
@given(
    env=st.text(),
    env_kwargs=st.dictionaries(st.text(), json_values, max_size=3),
    seed=st.integers(0, (1 << 31) - 1),
    learning_rate=st.floats(1e-300, 1e300),
    target_return=st.none() | st.floats(-1e300, 1e300),
    hidden_sizes=st.lists(st.integers(1, 10_000), max_size=4).map(tuple),
)
def test_any_configuration_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, **values: Any
) -> None:
    config = Config(**values)
    assert round_trip(config, tmp_path_factory.getbasetemp()) == config


def test_a_file_that_is_not_there_or_not_toml_is_refused_with_its_path(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("batch_size = \n")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in (
        (tmp_path / "absent.toml", "cannot read"),
        (tmp_path, "cannot read"),
        (binary, "cannot read"),
        (broken, "is not TOML"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            read_toml(path, "preset mine")
        assert str(path) in str(caught.value)
