"""Stacks: what actors act on, what learners train on and what is evaluated is what Gymnasium's
FrameStackObservation shows, wherever episodes begin, end and lose lives."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import actor.evaluation
from actor.evaluation import GreedyEvaluation
from actor.frame_stack import FrameStack
from common.config import Config
from common.environments import make_vector, probe_spec
from common.networks import network_input_shape
from common.spec import EnvSpec
from tests.collector import Hashed, Played, assert_same, collect, play, stacked
from tests.environments import Film

FILM = "tests.environments:Film-v0"
SEED = 40
CALLS = 40
"""Steps of the vector environment in a played example."""

Games = list[tuple[str, str]]


def film(**changes: Any) -> Config:
    """γ = ½: all returns and priorities of a Film are exact in float32."""
    return Config(**{"env": FILM, "discount": 0.5, **changes})


def played(config: Config, num_envs: int) -> Played:
    return play(make_vector(config, num_envs), config, Hashed(3), SEED, CALLS)


def alone(config: Config) -> gym.Env[Any, Any]:
    return stacked(Film(**config.env_kwargs), config)


def signs(max_size: int) -> st.SearchStrategy[str]:
    """Steps of a game; see `tests.environments.Film`."""
    return st.text(alphabet="...-+", min_size=1, max_size=max_size)


@st.composite
def films(draw: st.DrawFn) -> Config:
    endings = st.sampled_from(["terminated", "truncated", "both"])
    games: Games = draw(st.lists(st.tuples(signs(9), endings), min_size=1, max_size=4))
    return film(
        env_kwargs={
            "games": games,
            "picture_shape": draw(st.sampled_from([(2, 3), (1, 2, 3), (6,)])),
        },
        frame_stack=draw(st.integers(1, 5)),
        n_step=draw(st.integers(1, 6)),
        block_length=draw(st.integers(1, 9)),
        autoreset=draw(st.sampled_from(["next_step", "same_step"])),
        life_loss_ends_episode=draw(st.booleans()),
    )


@settings(max_examples=80)
@given(films(), st.integers(1, 3))
# Every step ends an episode: nothing but first and last rows.
@example(film(env_kwargs={"games": [(".", "terminated")]}, frame_stack=5, n_step=6), 1)
@example(
    film(
        env_kwargs={"games": [("----", "truncated")]},
        frame_stack=4,
        n_step=3,
        block_length=1,
        life_loss_ends_episode=True,
    ),
    2,
)
# An episode longer than any block with its context and tail.
@example(film(env_kwargs={"games": [("." * 60, "both")]}, frame_stack=5, n_step=2), 1)
def test_the_learner_trains_on_the_stacks_that_gymnasium_shows(
    config: Config, num_envs: int
) -> None:
    """Priorities are |δ| of Q-values that the actor had from its own stacks: they are equal only
    if these were the same, too."""
    result = played(config, num_envs)
    for seed in result.blocks:
        found = result.transitions(seed)
        assert_same(found, collect(alone(config), config, Hashed(3), seed, len(found)))


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("frame_stack", [1, 2, 4])
def test_no_transition_is_left_out_but_those_of_unfinished_blocks(
    frame_stack: int, autoreset: str
) -> None:
    config = film(frame_stack=frame_stack, autoreset=autoreset, block_length=8, n_step=3)
    result = play(make_vector(config, 3), config, Hashed(3), SEED, 120)
    # Of each stream at most 7 rows, which may start a transition, and 3 behind them wait.
    found = sum(len(result.transitions(seed)) for seed in result.blocks)
    assert result.rollout.env_steps - 3 * (7 + 3) <= found <= result.rollout.env_steps


@pytest.mark.parametrize("life_loss", [False, True])
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_the_actor_acts_on_the_stacks_that_gymnasium_shows(autoreset: str, life_loss: bool) -> None:
    config = film(frame_stack=4, autoreset=autoreset, life_loss_ends_episode=life_loss)
    q_function = Hashed(3)
    play(make_vector(config, 2), config, q_function, SEED, CALLS)
    shape = network_input_shape(config, probe_spec(config))
    acted_on: dict[int, list[bytes]] = {SEED: [], SEED + 1: []}
    for asked in q_function.seen:
        assert asked.shape[1:] == shape
        for stack in asked:
            acted_on[int(stack.flat[0])].append(stack.tobytes())
    for seed, stacks in acted_on.items():
        expected: list[bytes] = []
        env, q_values = alone(config), Hashed(3)
        obs, _ = env.reset(seed=seed)
        while len(expected) < len(stacks):
            expected.append(obs.tobytes())
            obs, _, terminated, truncated, _ = env.step(int(q_values(obs[None])[0].argmax()))
            if terminated or truncated:
                # The end of a game is looked at too, to bootstrap from; that of a life is not.
                if env.unwrapped._over:  # type: ignore[attr-defined]
                    expected.append(obs.tobytes())
                obs, _ = env.reset()
        assert stacks == expected[: len(stacks)]


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("frame_stack", [1, 3, 5])
@pytest.mark.parametrize("life_loss", [False, True])
def test_an_evaluation_acts_on_the_stacks_of_whole_games(
    monkeypatch: pytest.MonkeyPatch, frame_stack: int, autoreset: str, life_loss: bool
) -> None:
    monkeypatch.setattr(actor.evaluation, "MAX_ENVS", 3)
    config = film(frame_stack=frame_stack, autoreset=autoreset, life_loss_ends_episode=life_loss)
    greedy = GreedyEvaluation(config, probe_spec(config), 7)
    for run in range(2):  # What the first leaves behind does not show in the second.
        q_function = Hashed(3)
        returns, lengths = greedy.run(q_function, SEED + run)
        expected_episodes = []
        for i, share in enumerate((3, 2, 2)):
            stacks, episodes = _whole_games(config, SEED + run + i, share)
            expected_episodes += episodes
            acted_on = [
                stack.tobytes()
                for asked in q_function.seen
                for stack in asked
                if stack.flat[0] == SEED + run + i
            ]
            # The end of a game is acted on where the next one begins a step later; that of the last
            # is not.
            assert acted_on == [
                stack
                for stack, is_final in stacks[:-1]
                if not (is_final and autoreset == "same_step")
            ]
        found = sorted(zip(returns.tolist(), lengths.tolist(), strict=True))
        assert found == sorted(expected_episodes)
    greedy.close()


def _whole_games(
    config: Config, seed: int, games: int
) -> tuple[list[Any], list[tuple[float, int]]]:
    """(stack, whether it is a game's last) in order, and return and length of each game."""
    whole = config.model_copy(update={"life_loss_ends_episode": False})
    env, q_values = alone(whole), Hashed(3)
    stacks, episodes = [], []
    for game in range(games):
        obs, _ = env.reset(seed=seed if game == 0 else None)
        total, length, over = 0.0, 0, False
        while not over:
            stacks.append((obs.tobytes(), False))
            action = int(q_values(obs[None])[0].argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length, over = total + float(reward), length + 1, terminated or truncated
        stacks.append((obs.tobytes(), True))
        episodes.append((total, length))
    return stacks, episodes


def test_stacks_by_hand() -> None:
    # Two environments; the second begins another episode with its third observation.
    stack = FrameStack(2, EnvSpec((1,), "|u1", 2), 3)

    def push(*numbers: int, first: tuple[bool, bool] = (False, False)) -> Any:
        obs: npt.NDArray[np.uint8] = np.array(numbers, np.uint8)[:, None]
        return stack.push(obs, np.array(first))[:, :, 0].tolist()

    assert push(1, 51, first=(True, True)) == [[1, 1, 1], [51, 51, 51]]
    assert push(2, 52) == [[1, 1, 2], [51, 51, 52]]
    assert push(3, 60, first=(False, True)) == [[1, 2, 3], [60, 60, 60]]
    assert push(4, 61) == [[2, 3, 4], [60, 60, 61]]
    # What would be seen if 99 came next in the first environment; nothing is kept of it.
    final = stack.with_final(np.array([0]), np.array([[99]], np.uint8))
    assert final[:, :, 0].tolist() == [[3, 4, 99]]
    assert push(5, 62) == [[3, 4, 5], [60, 61, 62]]


def test_a_single_frame_is_the_observation_itself() -> None:
    stack = FrameStack(2, EnvSpec((2, 2), "|u1", 2), 1)
    obs: npt.NDArray[np.uint8] = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert stack.push(obs, np.array([True, True])) is obs
    assert stack.with_final(np.array([1]), obs[1:]).tolist() == obs[1:].tolist()
