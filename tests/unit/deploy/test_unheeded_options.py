"""Options that nobody would heed are refused before anything starts."""

from pathlib import Path

import pytest

from common.config import Config
from common.errors import ConfigError
from common.run_directory import create
from deploy.head import head
from deploy.launch import launch


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("--resume run --run-dir other", "--run-dir: --resume names"),
        ("--resume run --overwrite", "--overwrite: --resume names"),
        ("--in-process --metrics-port 0", "--metrics-port: --in-process is one process"),
        ("--in-process --metrics-host ::1", "--metrics-host: --in-process is one process"),
        ("--in-process --bind tcp://127.0.0.1:5550", "--bind: --in-process is one process"),
        ("--in-process --actors-here 0", "--actors-here: --in-process is one process"),
        ("--engine slurm --metrics-port 0", "--metrics-port: --engine slurm starts"),
        ("--engine slurm --profile", "--profile: --engine slurm starts"),
        ("--engine slurm --log-level debug", "--log-level: --engine slurm starts"),
        ("--engine slurm --dashboard", "--dashboard: --engine slurm only submits"),
        ("--engine slurm --stop-at-eof", "--stop-at-eof: --engine slurm only submits"),
        ("--engine ray --metrics-host ::1", "--metrics-host: --engine ray starts"),
        ("--engine ray --profile", "--profile: --engine ray starts"),
        ("--engine ray --log-level debug", "--log-level: --engine ray starts"),
    ],
)
def test_a_launch_refuses_what_would_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, refused: str
) -> None:
    monkeypatch.chdir(tmp_path)
    # Its imports, which take seconds and have no part in this.
    monkeypatch.setattr("deploy.launcher.preload", lambda: None)
    create(Path("run"), Config(), overwrite=False)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=f"^{refused}.*: drop it$"):
        launch(words.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_head_refuses_a_file_that_its_preset_would_replace() -> None:
    with pytest.raises(ConfigError, match=r"--config: .* give --preset FILE"):
        head(["--config", "mine.toml"])
