"""Command lines: every field is a flag with its docstring as help; values are judged by Config."""

from dataclasses import dataclass
from typing import Any

import pytest

from common.config import Config
from common.errors import ConfigError
from common.flags import parse, peek, with_dashes


@dataclass(kw_only=True)
class Options:
    """Do something."""

    connect: str = "tcp://127.0.0.1:5550"
    """The head's address."""
    number: int | None = None
    """Rejoin under this number."""


def parsed(*argv: str, base: Config | None = None) -> tuple[Options, Config]:
    return parse(Options, argv, prog="prog", base=base or Config())


def test_without_flags_options_and_configuration_are_the_bases() -> None:
    base = Config(batch_size=64, target_return=475.0, hidden_sizes=(32,), dueling=False)
    assert parsed(base=base) == (Options(), base)


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        (["--learning-rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--learning-rate=1e-4"], {"learning_rate": 1e-4}),
        (["--n-step", "5", "--seed", "9"], {"n_step": 5, "seed": 9}),
        (["--no-double", "--no-dueling"], {"double": False, "dueling": False}),
        (["--hidden-sizes", "64", "32", "16"], {"hidden_sizes": (64, 32, 16)}),
        (["--optimizer", "rmsprop"], {"optimizer": "rmsprop"}),
        (["--env", "Acrobot-v1"], {"env": "Acrobot-v1"}),
        (["--env-kwargs", '{"gravity": -9.8, "wind": [1]}'],
         {"env_kwargs": {"gravity": -9.8, "wind": [1]}}),
        (["--target-return", "-110"], {"target_return": -110.0}),
        (["--target-return", "none"], {"target_return": None}),
        (["--target-return", "None"], {"target_return": None}),
        (["--target-return=none"], {"target_return": None}),
        (["--max-grad-norm", "NONE"], {"max_grad_norm": None}),
        (["--samples-per-insert", "none"], {"samples_per_insert": None}),
    ],
)  # fmt: skip
def test_flags_change_fields(argv: list[str], changes: dict[str, Any]) -> None:
    base = Config(target_return=475.0)
    _, config = parsed(*argv, base=base)
    assert config == base.model_copy(update=changes)


def test_a_programs_own_options_stand_beside_the_fields() -> None:
    options, config = parsed("--number", "3", "--batch-size", "32", "--connect", "tcp://head:1")
    assert options == Options(connect="tcp://head:1", number=3)
    assert config.batch_size == 32


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--discount", "1.5"], "command line: discount = 1.5: .*less than or equal to 1"),
        (["--batch-size", "0"], "command line: batch_size = 0: .*greater than or equal to 1"),
        (
            ["--batch-size", "512", "--replay-capacity", "100"],
            "command line: batch_size = 512 must not exceed replay_capacity = 100",
        ),
    ],
)
def test_an_impossible_value_is_refused_in_the_configurations_words(
    argv: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(*argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--lerning-rate", "1"], "--learning-rate"),
        (["--batch-size", "many"], "--batch-size"),
        (["--optimizer", "sgd"], "rmsprop"),
        (["--env-kwargs", "gravity=3"], "--env-kwargs"),
        (["--env-kwargs", "[1]"], "JSON object"),
        (["--learning-rate"], "--learning-rate"),
    ],
)
def test_a_line_that_cannot_be_parsed_ends_with_two_and_says_the_flag(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*argv)
    assert caught.value.code == 2
    assert said in "".join(capsys.readouterr())


def test_help_shows_every_flag_with_its_docstring_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as caught:
        parsed("--help", base=Config(learning_rate=0.125))
    assert caught.value.code == 0
    shown = " ".join("".join(c for c in capsys.readouterr().out if c not in "│╭╮╰╯─").split())
    assert "Do something." in shown
    assert "--connect" in shown
    assert "The head's address." in shown
    for name, info in Config.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert info.description, f"{name} has no docstring"
        assert " ".join(info.description.split()) in shown
    assert "0.125" in shown


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--preset", "acrobot", "--seed", "1"], "acrobot"),
        (["--seed", "1", "--preset=my.toml"], "my.toml"),
        (["--preset"], None),
        (["--presets", "x"], None),
        ([], None),
    ],
)
def test_a_flags_value_can_be_known_beforehand(argv: list[str], value: str | None) -> None:
    assert peek(argv, "--preset") == value


def test_names_of_options_may_have_underscores_and_values_keep_them() -> None:
    words = ["--run_dir", "a_b", "--auto_resume", "--env_id=c_d", "-x_y", "launch_it"]
    assert with_dashes(words) == [
        "--run-dir", "a_b", "--auto-resume", "--env-id=c_d", "-x_y", "launch_it"
    ]  # fmt: skip
