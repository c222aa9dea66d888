"""Which checkpoint a run goes on from: the newest that is as it was written."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError
from learner.checkpoint import checkpoints, newest_intact, restore_learner
from tests.scarcity import no_more_files
from tests.unit.learner.test_checkpoint import (
    empty,
    make_learner,
    metadata,
    save,
    scramble,
    train,
    truncate,
)


def three(directory: Path) -> list[Path]:
    """Checkpoints after 1, 2 and 3 updates."""
    learner, paths = make_learner(), []
    for _ in range(3):
        train(learner, 1)
        paths.append(save(directory, learner))
    return paths


def _flip(place: int) -> Callable[[Path], None]:
    """Change one bit."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return flip


def _zero_page(path: Path) -> None:
    """As a disk leaves it that lost a page."""
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)


def _no_digest(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()["zapex"]
    save_file(load_file(path), path, metadata={"zapex": facts})


def _other_facts(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"1234") == 1  # env_steps of STATE.
    path.write_bytes(content.replace(b"1234", b"1235"))


DAMAGES = [
    pytest.param(truncate, id="truncated"),
    pytest.param(empty, id="empty"),
    pytest.param(scramble, id="scrambled"),
    pytest.param(_flip(0), id="a bit of the header's length"),
    pytest.param(_flip(-1), id="a bit of the last tensor"),
    pytest.param(_flip(-3_000), id="a bit of another tensor"),
    pytest.param(_zero_page, id="a page"),
    pytest.param(_other_facts, id="a counter"),
    pytest.param(_no_digest, id="without a digest"),
]


def test_a_run_goes_on_from_the_newest(tmp_path: Path) -> None:
    assert newest_intact(tmp_path) is None
    paths = three(tmp_path)
    assert newest_intact(tmp_path) == paths[2]
    assert checkpoints(tmp_path) == paths


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_the_one_before_if_the_newest_is_damaged_which_is_said_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    paths = three(tmp_path)
    damage(paths[2])
    assert newest_intact(tmp_path) == paths[1]
    (line,) = caplog.messages
    assert line.startswith(f"{paths[2]} is ")
    assert "damaged" in line
    assert line.endswith(f": it is put aside, the run goes on from {paths[1].name}")
    # It is not in the way of those to come: else with keep=1 the next one would be removed.
    assert checkpoints(tmp_path) == paths[:2]
    assert paths[2].with_suffix(".damaged").exists()
    learner = make_learner()
    restore_learner(paths[1], learner)
    assert learner.updates == 2
    assert checkpoints(tmp_path) == paths[:2]
    assert save(tmp_path, learner, keep=1) == newest_intact(tmp_path)


DIES_WRITING = """
import resource, signal, sys
from pathlib import Path
from tests.unit.learner.test_checkpoint import make_learner, save, train

learner = make_learner()
train(learner, 4)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
# Python asks for an error in its place.
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
save(Path(sys.argv[1]), learner)
"""
"""As by a kill in the middle of a file."""


def test_what_was_half_written_when_its_process_died_is_removed(tmp_path: Path) -> None:
    paths = three(tmp_path)
    died = subprocess.run([sys.executable, "-c", DIES_WRITING, str(tmp_path)])
    assert died.returncode == -signal.SIGXFSZ
    # As between the write and the renaming.
    (tmp_path / "00000005.partial").write_bytes(paths[2].read_bytes())
    assert len(set(tmp_path.iterdir()) - set(paths)) >= 2
    assert newest_intact(tmp_path) == paths[2]
    assert sorted(tmp_path.iterdir()) == paths


def test_if_none_is_intact_that_is_said_and_nothing_begins_anew(tmp_path: Path) -> None:
    paths = three(tmp_path)
    for path in paths:
        truncate(path)
    for _ in range(2):
        with pytest.raises(CheckpointError) as refused:
            newest_intact(tmp_path)
        assert str(refused.value) == (
            f"no checkpoint in {tmp_path} is intact (3 are damaged): put a copy of one there, or "
            "start a new run"
        )
    assert checkpoints(tmp_path) == paths


def test_one_of_another_release_is_no_damage(tmp_path: Path) -> None:
    paths = three(tmp_path)
    metadata('{"format": 99}', digest="by a rule of its own")(paths[2])
    with pytest.raises(CheckpointError, match="has format 99, this release reads 2"):
        newest_intact(tmp_path)
    assert checkpoints(tmp_path) == paths


def test_one_that_cannot_be_opened_may_be_intact_and_stays(tmp_path: Path) -> None:
    paths = three(tmp_path)
    content = paths[2].read_bytes()
    paths[2].unlink()
    paths[2].symlink_to(paths[2])  # Refused to root, too.
    with pytest.raises(CheckpointError) as refused:
        newest_intact(tmp_path)
    assert str(refused.value) == (
        f"cannot read {paths[2]} (Too many levels of symbolic links): make it readable and "
        "try again"
    )
    assert checkpoints(tmp_path) == paths
    paths[2].unlink()
    paths[2].write_bytes(content)
    assert newest_intact(tmp_path) == paths[2]


@pytest.mark.parametrize("spare", [0, 1])
def test_nor_is_one_damaged_or_missing_while_the_process_can_open_no_files(
    tmp_path: Path, spare: int
) -> None:
    """With none to spare the directory cannot be read, with one a file cannot, which is opened
    twice."""
    paths = three(tmp_path)
    assert newest_intact(tmp_path) == paths[2]  # What it imports is imported.
    refusal: CheckpointError | None = None
    with no_more_files(spare):
        try:
            newest_intact(tmp_path)
        except CheckpointError as error:
            refusal = error
    assert str(refusal).startswith(f"cannot read {paths[2] if spare else tmp_path} (")
    assert "Too many open files" in str(refusal)
    assert checkpoints(tmp_path) == paths
