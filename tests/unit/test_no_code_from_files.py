"""What a stranger sends, or leaves in a file, is data: nothing of it is ever run."""

import ast
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import run_directory
from common.config import Config
from common.errors import CheckpointError, ConfigError, ZapexError
from deploy import checkpoint_policy
from deploy.launch import launch
from deploy.named_code import named_code, tell_named_code
from learner.checkpoint import load_run_state
from tests.unit.test_import_arrows import MODULES, ROLES, modules_of

OURS = modules_of(*ROLES, "common", "deploy")
FORBIDDEN_MODULES = {
    "pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "codeop", "runpy",
    "jsonpickle", "yaml",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "allow_pickle"}
IMPORTERS = {
    "common.environment_ids": "minigrid, by its fixed name",
    "common.environments": "MODULE of an environment MODULE:ID",
    "common.networks": "MODULE of a network MODULE:FUNCTION",
    "deploy.__main__": "a command of the fixed list",
    "deploy.engines.ray": "ray, by its fixed name",
}
"""Who imports by a name that is not in the source, and where the name comes from."""


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call of a module, with the name of what is called."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("module", OURS)
def test_nothing_that_runs_data_is_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not FORBIDDEN_MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN_MODULES
        elif isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle"
            assert not (node.arg == "shell" and getattr(node.value, "value", True)), "a shell"
    for name, call in calls(module):
        assert name not in FORBIDDEN_CALLS, name
        assert name not in ("os.system", "os.popen"), name
        if name in ("torch.load", "torch.hub.load"):
            keywords = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
            assert keywords.get("weights_only") is True


def test_modules_are_imported_by_name_in_known_places_alone() -> None:
    importers = {m for m in OURS for name, _ in calls(m) if name == "importlib.import_module"}
    assert importers == IMPORTERS.keys()


# ------------------------------------------------------------------------- files of a stranger


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    trace = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Bomb(trace)))
    trace.unlink()  # The bomb works.
    return trace


def test_a_pickle_in_a_checkpoints_place_is_refused_and_not_run(
    tmp_path: Path, trace: Path
) -> None:
    run_dir = tmp_path / "run"
    run_directory.create(run_dir, Config())
    path = run_dir / "checkpoints" / "best.safetensors"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(CheckpointError):
        checkpoint_policy.load(run_dir, Config(), "best")
    with pytest.raises(CheckpointError):
        load_run_state(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "env = \"__import__('os').system('true')\"",
        'env_kwargs = {"a" = "!!python/object/apply:os.system [true]"}\nactors = "2 ** 99"',
        "env = {{ 7 * 7 }}",
    ],
)
def test_text_in_a_configuration_stays_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    try:
        config = run_directory.stored_config(tmp_path)
    except ConfigError:
        return
    assert config.env == "__import__('os').system('true')"


def test_a_module_beside_a_run_is_not_on_the_path(tmp_path: Path) -> None:
    """Its configuration names code, and that is looked for where Python looks, not there."""
    (tmp_path / "beside.py").write_text("raise SystemExit('it ran')")
    config = Config(network="beside:build")
    run_directory.create(tmp_path / "run", config)
    assert str(tmp_path) not in sys.path
    with pytest.raises(ZapexError):
        checkpoint_policy.load(tmp_path / "run", config, "best")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"env": "ALE/Pong-v5"}, []),
        ({"env": "theirs.envs:Maze-v0"}, ["theirs.envs (env)"]),
        ({"env": "a:B-v0", "network": "nets:big"}, ["a (env)", "nets (network)"]),
    ],
)
def test_code_that_a_run_names_is_told(
    changes: dict[str, Any], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(**changes)
    assert named_code(config) == named
    tell_named_code(Path("run"), config)
    said = capsys.readouterr().err
    assert said.count("\n") == bool(named)
    assert all(name in said for name in named)


def test_a_resumed_run_tells_of_its_code_before_any_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the environment is made only to see how much memory the replays take."""
    (tmp_path / "strange.py").write_text(
        "import sys\nprint('it runs', file=sys.stderr)\nraise ImportError('no further')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("deploy.launcher.preload", lambda: None)
    config = Config(env="strange:X-v0", replay_storage="memory", replay_servers=2)
    run_directory.create(tmp_path / "run", config)
    with pytest.raises(ZapexError, match="no further"):
        launch(["--resume", str(tmp_path / "run")])
    told, ran = capsys.readouterr().err.splitlines()
    assert "import strange (env)" in told
    assert ran == "it runs"
