"""`deploy/environment.sh`: a virtual environment that was begun is finished."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "environment.sh"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("was_there", ["nothing", "no pip", "pip"])
def test_an_environment_is_made_unless_one_with_pip_is_there(
    tmp_path: Path, was_there: str
) -> None:
    """As Ctrl-C may leave it: venv puts pip there last."""
    inside, log = tmp_path / ".venv" / "bin" / "python", tmp_path / "log"
    works = f'echo "pip: $*" >> {log}'
    if was_there != "nothing":
        script(inside, works if was_there == "pip" else "exit 1")
    script(tmp_path / "works", works)
    makes = f"mkdir -p {inside.parent}; cp {tmp_path / 'works'} {inside}"
    script(tmp_path / "python", f'if [ "$2" = venv ]; then echo venv >> {log}; {makes}; fi')
    command = f"set -euo pipefail; source {SCRIPT}; prepare_environment {tmp_path} atari"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python")}
    subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True)
    called = log.read_text().splitlines()
    assert ("venv" in called) == (was_there != "pip")
    assert f"--editable {tmp_path}[atari]" in called[-1]
    assert (tmp_path / ".venv" / "installed-extras").read_text() == "atari\n"


def test_a_runs_clock_begins_once_all_is_installed(tmp_path: Path) -> None:
    for name in ("environment.sh", "launch.sh"):
        script(tmp_path / "deploy" / name, "")
        shutil.copy(SCRIPT.parent / name, tmp_path / "deploy" / name)
    log = tmp_path / "log"
    does = f'if [ "$2" = pip ]; then cat /proc/uptime > {log}; else echo "$ZAPEX_BEGAN_S $*"; fi'
    script(tmp_path / ".venv" / "bin" / "python", does)
    ran = subprocess.run(
        [str(tmp_path / "deploy" / "launch.sh"), "--seed", "1"],
        env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    began_s, words = ran.stdout.split(maxsplit=1)
    assert words == "-m deploy launch --seed 1\n"
    assert float(began_s) >= float(log.read_text().split()[0])
