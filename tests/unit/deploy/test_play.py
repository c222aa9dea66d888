"""`python -m deploy play`: what it shows, where it puts it, and what it says when it cannot."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actor.picture import PANEL_WIDTH
from common import run_directory
from common.config import Config
from common.environments import probe_spec
from common.errors import CheckpointError, ConfigError, EnvironmentFault, RunDirectoryError
from common.networks import build_network
from deploy.evaluate import evaluate
from deploy.play import play
from learner.checkpoint import save_best
from tests.videos import decoded

PAINTED = "tests.environments:Painted-v0"


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    # To be undone: `play` sets them.
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")


def run_of(directory: Path, **changes: Any) -> Path:
    """A run directory whose best weights are random ones."""
    config = Config(**{"env": PAINTED, "hidden_sizes": (8,), **changes})
    run_dir = directory / "run"
    run_directory.create(run_dir, config)
    spec = probe_spec(config)
    torch.manual_seed(0)
    save_best(run_dir / "checkpoints", build_network(config, spec).state_dict(), spec, {})
    return run_dir


def test_a_video_for_each_episode_tells_its_number_return_and_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_of(tmp_path)
    words = ["--episodes", "3", "--seed", "2", "--video", str(tmp_path / "films")]
    assert play([str(run_dir), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Seeds 2, 3 and 4 begin with episodes of 5, 1 and 4 steps.
    for number, (line, length) in enumerate(zip(lines, (5, 1, 4), strict=True), start=1):
        told = re.fullmatch(rf"episode {number}: return (-?[\d.]+), length {length}, (.*)", line)
        assert told is not None
        path = Path(told[2])
        name = f"best_episode_{number}_seed_{number + 1}_return_{told[1]}_length_{length}.mp4"
        assert path == tmp_path / "films" / name
        assert decoded(path).pictures.shape == (length + 1, 360, 480, 3)
    assert len(list((tmp_path / "films").iterdir())) == 3


def test_without_a_display_videos_go_into_the_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_of(tmp_path)
    assert play([str(run_dir)]) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first == f"no display here: videos go to {run_dir / 'videos'}"
    (path,) = (run_dir / "videos").iterdir()
    assert path.suffix == ".mp4"


@pytest.mark.parametrize("words", [["--render", "human"], []])
def test_where_there_is_a_display_episodes_are_shown(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    seen: list[Any] = []
    flip = pygame.display.flip
    monkeypatch.setattr(
        pygame.display,
        "flip",
        lambda: (flip(), seen.append(pygame.surfarray.array3d(pygame.display.get_surface()))),
    )
    run_dir = run_of(tmp_path)
    assert play([str(run_dir), *words, "--seed", "2", "--fps", "500"]) == 0
    assert capsys.readouterr().out.startswith("episode 1: return ")
    assert not (run_dir / "videos").exists()
    # Bars of 120 pixels: seed 2, episode 0, the step, and the action before it + 1.
    assert [(p[0, 0, 0], p[130, 0, 0], p[250, 0, 0]) for p in seen] == [
        (2, 0, step) for step in range(6)
    ]


def test_closing_the_window_ends_it_and_leaves_no_half_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    quit_event = pygame.event.Event(pygame.QUIT)
    monkeypatch.setattr(pygame.event, "get", lambda: [quit_event])
    run_dir = run_of(tmp_path)
    words = ["--render", "human", "--video", str(tmp_path / "films"), "--fps", "500"]
    assert play([str(run_dir), *words, "--episodes", "5", "--seed", "2"]) == 0
    assert capsys.readouterr().out == ""
    assert list((tmp_path / "films").iterdir()) == []


def test_q_values_stand_beside_the_picture(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path)
    pictures = {}
    for name, words in {"plain": [], "values": ["--q-values"]}.items():
        play([str(run_dir), "--seed", "2", "--video", str(tmp_path / name), *words])
        (path,) = (tmp_path / name).iterdir()
        pictures[name] = decoded(path).pictures
    plain, values = pictures["plain"], pictures["values"]
    assert values.shape == (6, 360, 480 + PANEL_WIDTH, 3)
    # Coded anew, each picture is nearly what it was.
    assert np.abs(values[:, :, :470].astype(int) - plain[:, :, :470]).max() < 10


def test_gifs_and_another_pace(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path)
    words = ["--video", str(tmp_path / "films"), "--format", "gif", "--fps", "20"]
    play([str(run_dir), *words, "--seed", "2"])
    (path,) = (tmp_path / "films").iterdir()
    assert path.suffix == ".gif"
    found = decoded(path)
    assert (len(found.pictures), found.fps, found.codec) == (6, 20.0, "gif")


def test_it_plays_what_evaluate_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = run_of(tmp_path, env="CartPole-v1")
    assert evaluate([str(run_dir), "--episodes", "1", "--seed", "9"]) == 0
    assert play([str(run_dir), "--seed", "9"]) == 0
    evaluated, _, played = capsys.readouterr().out.splitlines()
    told = re.search(r"return (\d+)\.0 ", evaluated)
    assert told is not None
    assert f"return {told[1]}, length {told[1]}, " in played


def test_the_environment_gets_arguments_over_the_runs_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A network of 5 actions plays nothing else.
    run_dir = run_of(tmp_path, env_kwargs={"num_actions": 5, "episodes": [[3, "terminated"]]})
    words = [str(run_dir), "--episodes", "2", "--env-kwargs", '{"episodes": [[7, "truncated"]]}']
    assert play([*words, "--video", str(tmp_path / "films")]) == 0
    assert capsys.readouterr().out.count("length 7, ") == 2
    told = []
    for options in (words, words[:3]):
        assert evaluate([*options, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["return_max"])
    # Steps 0 … 6, and 0 … 2, are worth ten each, and the action at most 4.
    assert 210 <= told[0] <= 210 + 7 * 4
    assert 30 <= told[1] <= 30 + 3 * 4


@pytest.mark.parametrize("command", [play, evaluate])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('{"colour": 3}', r"cannot make .*Painted-v0 with .'colour': 3.: .*unexpected keyword"),
        (
            '{"num_actions": 2}',
            r"Painted-v0.*(num_actions=2\), in the run| 2 actions here, .* 3 in).*the run's env_kw",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_said(
    tmp_path: Path, command: Callable[[list[str]], int], words: str, said: str
) -> None:
    with pytest.raises(EnvironmentFault, match=said):
        command([str(run_of(tmp_path)), "--env-kwargs", words])


@pytest.mark.parametrize("command", [play, evaluate])
def test_arguments_that_are_no_json_are_said(
    tmp_path: Path, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command([str(tmp_path), "--env-kwargs", "{colour: 3}"])
    assert caught.value.code == 2
    assert "Error parsing --env-kwargs: Expecting property name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--episodes", "0"], ConfigError, "--episodes 0: must be at least 1"),
        (["--fps", "0"], ConfigError, "--fps 0: must be from 0.1 to 1000"),
        (["--checkpoint", "latest"], CheckpointError, "no checkpoint 'latest' in .*there are best"),
        (["--checkpoint", "77"], CheckpointError, "no checkpoint '77' in .*there are best"),
        (["--render", "human"], ConfigError, "needs a display.*make videos with --video DIR"),
        (["--video", "FILE/films"], RunDirectoryError, "cannot write a video to .*FILE/films"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_one_line(
    tmp_path: Path, words: list[str], error: type[Exception], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    with pytest.raises(error, match=said):
        play([str(run_of(tmp_path)), *words])


def test_a_directory_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        play([str(tmp_path)])


def test_an_environment_without_pictures_is_said(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path, env="tests.environments:Ledger-v0")
    with pytest.raises(EnvironmentFault, match=r"cannot film tests\.environments:Ledger-v0: "):
        play([str(run_dir)])
    assert not (run_dir / "videos").exists()


@pytest.mark.parametrize(
    ("module", "words", "package"),
    [("imageio_ffmpeg", [], "imageio-ffmpeg"), ("PIL", ["--q-values"], "Pillow"),
     ("pygame", ["--render", "human"], "pygame-ce")],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    tmp_path: Path, module: str, words: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = run_of(tmp_path)
    if module == "pygame":
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"package {package}, .*pip install -e '\.\[watch\]'"):
        play([str(run_dir), *words])


def test_a_checkpoint_of_another_network_is_said(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path)
    run_directory.store_config(run_dir, Config(env=PAINTED, hidden_sizes=(9,)))
    with pytest.raises(CheckpointError, match=r"best.safetensors does not fit the run's config"):
        play([str(run_dir)])
