"""Filmed episodes are those of the evaluation, seen from outside: a picture before each step and
one at the end."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch

from actor.acting_policy import Interrupted
from actor.evaluation import GreedyEvaluation
from actor.film import Filming, Frame, QValues, draw_in_memory, film_episode
from actor.film_thread import FilmThread
from actor.policy import Policy
from common.config import Config
from common.environments import probe_spec
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.messages import Weights
from common.minatar import ACTION_NAMES
from common.networks import build_network
from common.spec import EnvSpec
from tests.environments import EPISODES, Painted
from tests.videos import decoded
from tests.waiting import wait_until

PAINTED = "tests.environments:Painted-v0"
Shown = list[tuple[Frame, QValues | None]]


@pytest.fixture(autouse=True)
def no_screen() -> None:
    draw_in_memory()


def by_step(obs: npt.NDArray[Any]) -> QValues:
    """The best action of a Ledger is its step modulo 3; the other values tell seed and episode."""
    q_values = np.stack([obs[:, 0] - 1000, obs[:, 1] - 1000, obs[:, 2] - 1000], axis=1)
    q_values[np.arange(len(obs)), obs[:, 2].astype(int) % 3] = 1.0
    return q_values.astype(np.float32)


def filmed(config: Config, seed: int, q_function: Any = by_step) -> tuple[Shown, float, int]:
    shown: Shown = []
    filming = Filming(config, probe_spec(config))
    try:
        total, length = filming.play(q_function, seed, lambda *seen: shown.append(seen))
    finally:
        filming.close()
    return shown, total, length


def policy_of(config: Config, weights_seed: int = 0) -> Policy:
    torch.manual_seed(weights_seed)
    policy = Policy(Manifest("run", config, probe_spec(config)))
    policy.load(weights_of(config, 7))
    return policy


def weights_of(config: Config, version: int) -> Weights:
    network = build_network(config, probe_spec(config))
    return Weights(0, version, {k: v.numpy() for k, v in network.state_dict().items()})


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("episode", range(len(EPISODES)))
def test_each_picture_comes_with_the_values_of_what_it_shows(episode: int, autoreset: str) -> None:
    shown, _, length = filmed(Config(env=PAINTED, autoreset=autoreset), seed=episode)
    assert length == EPISODES[episode][0]
    # Bars: seed, episode, step, action + 1; action = step before modulo 3.
    assert [frame[0, :, 0].tolist() for frame, _ in shown] == [
        [episode, 0, step, (step - 1) % 3 + 1 if step else 0] for step in range(length + 1)
    ]
    *choices, (_, end) = shown
    assert end is None
    assert [q_values.argmax() for _, q_values in choices if q_values is not None] == [
        step % 3 for step in range(length)
    ]


def test_a_filmed_episode_scores_what_the_evaluation_gives_it() -> None:
    """Environment i of the evaluation, and episode i that is filmed, have seed 50 + i."""
    config = Config(env="CartPole-v1", hidden_sizes=(16,))
    policy = policy_of(config)
    evaluation = GreedyEvaluation(config, probe_spec(config), 6)
    returns, lengths = evaluation.run(policy.q_values, 50)
    evaluation.close()
    filming = Filming(config, probe_spec(config))
    played = [filming.play(policy.q_values, 50 + i, lambda *_: None) for i in range(6)]
    filming.close()
    assert len({length for _, length in played}) > 1
    assert sorted(played) == sorted(zip(returns.tolist(), lengths.tolist(), strict=True))


def test_a_minatar_game_is_filmed_as_our_vector_plays_it() -> None:
    """Sticky actions and all: both draw the same random numbers from a seed."""
    pytest.importorskip("minatar")
    config = Config(
        env="MinAtar/Breakout-v1", vectorization="vector_entry_point", hidden_sizes=(8,)
    )
    policy = policy_of(config)
    evaluation = GreedyEvaluation(config, probe_spec(config), 4)
    returns, lengths = evaluation.run(policy.q_values, 50)
    evaluation.close()
    filming = Filming(config, probe_spec(config))
    frames: list[Frame] = []
    played = [
        filming.play(policy.q_values, 50 + i, lambda frame, _: frames.append(frame))
        for i in range(4)
    ]
    filming.close()
    assert sorted(played) == sorted(zip(returns.tolist(), lengths.tolist(), strict=True))
    assert len(frames) == lengths.sum() + 4
    assert {frame.shape for frame in frames} == {(10, 10, 3)}


# ------------------------------------------------------------------------------------------- Atari

ATARI = {
    "env": "ALE/SpaceInvaders-v5",
    "env_kwargs": {"repeat_action_probability": 0.0, "max_num_frames_per_episode": 240},
    "vectorization": "vector_entry_point",
    "resize": (84, 84),
    "greyscale": True,
    "frame_stack": 4,
    "network": "nature",
}


def fire(obs: npt.NDArray[Any]) -> QValues:
    """Whatever is seen in the last four frames, action 1."""
    assert obs.shape[1:] == (4, 84, 84)
    return np.array([[0, 1, 0, 0, 0, 0]] * len(obs), np.float32)


def test_an_atari_picture_is_the_brighter_of_the_steps_last_two_frames() -> None:
    """Against the bare game, four frames for each step: 60 steps."""
    ale_py = pytest.importorskip("ale_py")
    shown, _, length = filmed(Config(**ATARI), seed=3, q_function=fire)
    gym.register_envs(ale_py)
    game = gym.make(
        "ALE/SpaceInvaders-v5",
        frameskip=1,
        repeat_action_probability=0.0,
        max_num_frames_per_episode=240,
        render_mode="rgb_array",
        full_action_space=False,
    )
    game.reset(seed=3)
    expected, alone = [game.render()], 0
    for _ in range(length):
        frames: list[Any] = []
        over = False
        while len(frames) < 4 and not over:
            _, _, terminated, truncated, _ = game.step(1)
            frames.append(game.render())
            over = terminated or truncated
        expected.append(np.maximum(*frames[-2:]) if len(frames) > 1 else frames[0])
        alone += bool((expected[-1] != frames[-1]).any())
    game.close()
    assert over
    assert len(shown) == length + 1 == len(expected)
    for (frame, _), picture in zip(shown, expected, strict=True):
        assert (frame == picture).all()
    # The last frame by itself would have shown something else.
    assert alone > 10


@pytest.mark.parametrize(
    ("changes", "fps"),
    [
        (ATARI, 15.0),  # 60 frames a second, 4 for each step.
        ({**ATARI, "env_kwargs": {"frameskip": 3}}, 20.0),
        ({**ATARI, "vectorization": "envpool"}, 15.0),  # EnvPool itself is not needed.
        ({"env": PAINTED}, 8.0),
        ({"env": "CartPole-v1"}, 50.0),
        ({"env": "MinAtar/Freeway-v1"}, 30.0),  # It does not say.
    ],
    ids=lambda value: value["env"] if isinstance(value, dict) else "",
)
def test_a_film_goes_at_the_environments_own_pace(changes: dict[str, Any], fps: float) -> None:
    for prefix, package in (("ALE", "ale_py"), ("MinAtar", "minatar")):
        if changes["env"].startswith(prefix):
            pytest.importorskip(package)
    config = Config(**changes)
    probed = config.model_copy(update={"vectorization": "sync"})
    filming = Filming(config, probe_spec(probed))
    assert filming.fps == fps
    filming.close()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (ATARI, ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]),
        ({"env": "MinAtar/Freeway-v1"}, ["NOTHING", "UP", "DOWN"]),
        (
            {"env": "MinAtar/Freeway-v1", "env_kwargs": {"use_minimal_action_set": False}},
            list(ACTION_NAMES),
        ),
        ({"env": PAINTED}, ["0", "1", "2"]),
    ],
    ids=lambda value: value["env"] if isinstance(value, dict) else "",
)
def test_actions_have_the_environments_names_or_numbers(
    changes: dict[str, Any], names: list[str]
) -> None:
    for prefix, package in (("ALE", "ale_py"), ("MinAtar", "minatar")):
        if changes["env"].startswith(prefix):
            pytest.importorskip(package)
    config = Config(**changes)
    filming = Filming(config, probe_spec(config))
    assert filming.action_names == names
    filming.close()


def test_an_environment_that_a_function_makes_is_filmed() -> None:
    """Functions have no metadata to ask for render modes."""
    gym.register("FromFunction-v0", entry_point=lambda **kwargs: Painted(**kwargs))
    try:
        shown, _, length = filmed(Config(env="FromFunction-v0"), seed=0)
    finally:
        del gym.registry["FromFunction-v0"]
    assert len(shown) == length + 1


# ------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"env": "tests.environments:Ledger-v0"}, "it has no rgb_array"),
        ({"env": "tests.environments:DisabledAutoreset-v0"}, "nothing but a vector class"),
        (
            {**ATARI, "env_kwargs": {"use_fire_reset": True}},
            "Gymnasium's preprocessing has neither",
        ),
    ],
    ids=["no renderer", "vector class", "FIRE reset"],
)
def test_what_cannot_be_filmed_is_said_in_one_line(changes: dict[str, Any], why: str) -> None:
    if changes["env"].startswith("ALE"):
        pytest.importorskip("ale_py")
    with pytest.raises(EnvironmentFault) as raised:
        Filming(Config(**changes), EnvSpec((4,), "<f4", 3))
    assert str(raised.value).startswith(f"cannot film {changes['env']}: ")
    assert why in str(raised.value)


def test_an_environment_whose_picture_is_none_is_said_in_one_line() -> None:
    config = Config(env=PAINTED, env_kwargs={"blank_after": 1})
    with pytest.raises(EnvironmentFault, match="renders no pictures, but NoneType"):
        filmed(config, seed=0)


def test_what_an_environment_needs_to_draw_is_said_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(EnvironmentFault, match=r"pygame.* not installed.*pip install"):
        filmed(Config(env="CartPole-v1"), seed=0)


def test_an_environment_that_is_another_one_alone_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match=r"alone it is EnvSpec\(.*4,.*in the run it was"):
        Filming(Config(env="CartPole-v1"), EnvSpec((5,), "<f4", 2))


# -------------------------------------------------------------------------- films of evaluations

LEARNT = Config(env=PAINTED, hidden_sizes=(4,))


def test_a_film_bears_the_version_of_the_weights(tmp_path: Path) -> None:
    policy = policy_of(LEARNT)
    path = film_episode(
        Manifest("run", LEARNT, probe_spec(LEARNT)), policy, tmp_path / "videos", lambda: True
    )
    assert path == tmp_path / "videos" / "00000007.mp4"
    found = decoded(path)
    # Seed 7 begins with episode 7 modulo 5. Pictures of 3 × 4 become 360 × 480.
    assert found.pictures.shape == (EPISODES[2][0] + 1, 360, 480, 3)
    assert (found.fps, found.codec) == (8.0, "h264")


def test_an_interrupted_film_leaves_nothing(tmp_path: Path) -> None:
    answers = iter([True, True, False])
    with pytest.raises(Interrupted):
        film_episode(
            Manifest("run", LEARNT, probe_spec(LEARNT)),
            policy_of(LEARNT),
            tmp_path,
            lambda: next(answers),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Camera"]:
    camera = Camera(tmp_path)
    monkeypatch.setattr("actor.film_thread.film_episode", camera.film)
    yield camera
    camera.may_end.set()


class Camera:
    """In place of `film_episode`: films until it may end, or is interrupted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.began: list[int] = []
        self.ended: list[int] = []
        self.may_end = threading.Event()
        self.fault: Exception | None = None

    def film(self, manifest: Manifest, policy: Policy, directory: Path, goes_on: Any) -> None:
        assert directory == self.directory
        self.began.append(policy.version)
        if self.fault is not None:
            raise self.fault
        while not self.may_end.wait(0.01):
            if not goes_on():
                raise Interrupted
        self.ended.append(policy.version)


def films_of(period: int | None, directory: Path) -> FilmThread:
    config = LEARNT.model_copy(update={"video_period": period})
    return FilmThread(Manifest("run", config, probe_spec(config)), directory)


@pytest.mark.parametrize(
    ("period", "expected"), [(None, []), (1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])]
)
def test_the_first_of_every_so_many_evaluations_is_filmed(
    camera: Camera, period: int | None, expected: list[int]
) -> None:
    camera.may_end.set()
    films = films_of(period, camera.directory)
    for version in range(7):
        films.offer(weights_of(LEARNT, version))
        wait_until(
            lambda: (
                len(camera.ended) == len([v for v in expected if v <= version])  # noqa: B023
                and not any(t.name == "film" for t in threading.enumerate())
            ),
            "the film's end",
        )
    films.close()
    assert camera.ended == expected


def test_a_turn_that_comes_during_a_film_passes_to_the_next(camera: Camera) -> None:
    films = films_of(2, camera.directory)
    for version in range(4):  # 2 would have been next.
        films.offer(weights_of(LEARNT, version))
    camera.may_end.set()
    wait_until(
        lambda: not any(t.name == "film" for t in threading.enumerate()), "the end of the film"
    )
    films.offer(weights_of(LEARNT, 4))
    films.close()
    assert camera.ended == [0, 4]


def test_the_end_of_the_evaluator_ends_a_film(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    films = films_of(1, camera.directory)
    films.offer(weights_of(LEARNT, 0))
    wait_until(lambda: camera.began == [0], "a film")
    films.close()
    assert camera.ended == []
    assert not caplog.records


def test_what_goes_wrong_is_one_warning_and_the_last_film(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    camera.fault = RuntimeError("no\nrenderer")
    films = films_of(1, camera.directory)
    films.offer(weights_of(LEARNT, 0))
    wait_until(lambda: bool(caplog.records), "the warning")
    films.close()
    films.offer(weights_of(LEARNT, 1))
    films.close()
    assert camera.began == [0]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "evaluations are not filmed any more: no renderer"
