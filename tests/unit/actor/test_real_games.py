"""Blocks of real games against Gymnasium's wrappers: pictures, lives, truncation and resets."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from common import minatar
from common.blocks import RowKind
from common.config import Config
from common.environments import make_vector
from tests.collector import Hashed, Played, assert_same, collect, play, stacked

SEED = 60
Make = Callable[[], gym.Env[Any, Any]]


def label(seed: int) -> int:
    """That fits into a byte."""
    return seed % 256


class Labelled(gym.Wrapper[Any, Any, Any, Any]):
    """Writes its seed's label into the first number of every observation, by which streams are
    told."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._seed = seed if seed is not None else self._seed
        obs, info = self.env.reset(seed=seed, options=options)
        return self._labelled(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        return self._labelled(obs), *rest

    def _labelled(self, obs: Any) -> Any:
        obs = np.array(obs)
        obs.flat[0] = label(self._seed)
        return obs


def breakout() -> gym.Env[Any, Any]:
    """Five lives, sticky actions, and the end after 400 frames."""
    gym.register_envs(pytest.importorskip("ale_py"))
    game = gym.make("ALE/Breakout-v5", obs_type="grayscale", max_num_frames_per_episode=400)
    return Labelled(gym.wrappers.ResizeObservation(game, (84, 84)))


def minatar_asterix() -> gym.Env[Any, Any]:
    """Ten by ten places with four channels each, no lives."""
    pytest.importorskip("minatar")
    minatar.register()
    game = gym.make("MinAtar/Asterix-v1", max_episode_steps=60)
    pictures = gym.spaces.Box(0, 255, game.observation_space.shape, np.uint8)
    return Labelled(
        gym.wrappers.TransformObservation(game, lambda obs: obs.astype(np.uint8), pictures)
    )


def cartpole() -> gym.Env[Any, Any]:
    """No pictures at all: four numbers, here as bytes."""
    pole = gym.make("CartPole-v1", max_episode_steps=10)
    bytes_of = gym.spaces.Box(0, 255, (16,), np.uint8)
    return Labelled(
        gym.wrappers.TransformObservation(
            pole, lambda obs: np.frombuffer(obs.tobytes(), np.uint8), bytes_of
        )
    )


BOTH_ENDS = {RowKind.TERMINATED, RowKind.TRUNCATED}
GAMES: Sequence[tuple[Make, bool, set[RowKind]]] = [
    (breakout, False, {RowKind.TRUNCATED}),  # Its lives last longer than 400 frames.
    (breakout, True, BOTH_ENDS),
    (minatar_asterix, False, BOTH_ENDS),
    (cartpole, False, BOTH_ENDS),
]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    ("make", "life_loss", "ends"),
    GAMES,
    ids=["breakout", "breakout by lives", "minatar", "cartpole"],
)
def test_the_learner_trains_on_what_gymnasiums_wrappers_show(
    make: Make, life_loss: bool, ends: set[RowKind], mode: AutoresetMode
) -> None:
    config = Config(
        discount=0.5,
        n_step=3,
        block_length=16,
        frame_stack=4,
        life_loss_ends_episode=life_loss,
    )
    vector = SyncVectorEnv([make, make], autoreset_mode=mode)
    actions = int(vector.single_action_space.n)  # type: ignore[attr-defined]
    result = play(vector, config, Hashed(actions), SEED, 160)
    assert sorted(result.blocks) == [SEED, SEED + 1]
    seen: set[int] = set()
    for seed, blocks in result.blocks.items():
        found = result.transitions(seed)
        assert len(found) > 120
        expected = collect(stacked(make(), config), config, Hashed(actions), seed, len(found))
        assert_same(found, expected)
        seen |= set(np.concatenate([insert.row_kind[0] for insert in blocks]).tolist())
    assert ends <= seen


# ------------------------------------------------------------ Atari, as the presets have it played


FRAME_SKIP = 12
"""So many that a life in Asterix lasts some 25 steps, and a game 80."""
CALLS = 80


class LabelledVector(VectorWrapper[Any, Any, Any]):
    """`Labelled` for environments that a vector class plays by itself."""

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> Any:  # type: ignore[override]
        self._labels = [label(seed + i) for i in range(self.num_envs)]
        obs, info = self.env.reset(seed=seed, options=options)
        return self._labelled(obs), info

    def step(self, actions: Any) -> Any:
        obs, *rest, info = self.env.step(actions)
        if "final_obs" in info:
            info["final_obs"] = self._labelled(info["final_obs"])
        return self._labelled(obs), *rest, info

    def _labelled(self, obs: Any) -> Any:
        obs = np.array(obs)
        obs[:, 0, 0] = self._labels
        return obs


def atari(game: str, frame_cap: int, **changes: Any) -> Config:
    """γ = ½ and a reward of whole points keep returns exact."""
    values = {
        "env": f"ALE/{game}-v5",
        "env_kwargs": {"frameskip": FRAME_SKIP, "max_num_frames_per_episode": frame_cap},
        "vectorization": "vector_entry_point",
        "resize": (84, 84),
        "greyscale": True,
        "discount": 0.5,
        **changes,
    }
    return Config(**values)


def single_atari(config: Config) -> gym.Env[Any, Any]:
    """The same game by Gymnasium's wrappers."""
    kwargs = {**config.env_kwargs, "repeat_action_probability": 0.25}
    frame_skip = kwargs.pop("frameskip")
    game: Any = gym.make(config.env, frameskip=1, **kwargs)

    def seed_emulator(seed: int) -> tuple[int, int]:
        """With the seed itself, as the vector class does, and not with a hash of it."""
        game.unwrapped.ale.setInt("random_seed", seed)
        return seed, seed

    game.unwrapped.seed_game = seed_emulator
    return Labelled(
        gym.wrappers.AtariPreprocessing(game, noop_max=0, frame_skip=frame_skip, screen_size=84)
    )


def assert_trained_on_what_gymnasium_shows(config: Config, seed: int, calls: int) -> Played:
    """Two games of these seeds."""
    gym.register_envs(pytest.importorskip("ale_py"))
    pytest.importorskip("cv2")
    vector = make_vector(config, 2)
    actions = int(vector.single_action_space.n)  # type: ignore[attr-defined]
    result = play(LabelledVector(vector), config, Hashed(actions), seed, calls)
    assert set(result.blocks) == {label(seed), label(seed + 1)}
    for own_seed in (seed, seed + 1):
        found = result.transitions(label(own_seed))
        assert found
        env = stacked(single_atari(config), config)
        assert_same(found, collect(env, config, Hashed(actions), own_seed, len(found)))
    return result


ANY_ATARI = given(
    config=st.builds(
        atari,
        game=st.sampled_from(["Asterix", "Breakout", "Pong", "Qbert", "Seaquest", "SpaceInvaders"]),
        # Up to more than there is time for; the reference plays its last game to the end.
        frame_cap=st.integers(1, CALLS * FRAME_SKIP + 100),
        frame_stack=st.integers(1, 5),
        n_step=st.integers(1, 5),
        block_length=st.integers(1, 24),
        life_loss_ends_episode=st.booleans(),
        reward_clip=st.sampled_from([None, 1.0]),
        autoreset=st.sampled_from(["next_step", "same_step"]),
    ),
    seed=st.integers(0, (1 << 31) - 2),
)
# An example takes a second: a failing one is shown as it was found.
AS_FOUND = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=6, phases=AS_FOUND)
@ANY_ATARI
def test_the_learner_trains_on_what_gymnasiums_wrappers_show_of_atari(
    config: Config, seed: int
) -> None:
    assert_trained_on_what_gymnasium_shows(config, seed, CALLS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=100, phases=AS_FOUND)
@ANY_ATARI
def test_it_does_so_whatever_is_set(config: Config, seed: int) -> None:
    assert_trained_on_what_gymnasium_shows(config, seed, CALLS)


@pytest.mark.parametrize(("life_loss", "autoreset"), [(False, "next_step"), (True, "same_step")])
def test_it_does_so_when_a_game_is_over(life_loss: bool, autoreset: str) -> None:
    config = atari(
        "Asterix",
        frame_cap=108_000,
        frame_stack=4,
        block_length=8,
        life_loss_ends_episode=life_loss,
        autoreset=autoreset,
    )
    result = assert_trained_on_what_gymnasium_shows(config, SEED, 2 * CALLS)
    layout = result.manifest.layout
    own_rows = slice(layout.context, layout.context + layout.length)
    kinds = np.concatenate([i.row_kind[0, own_rows] for b in result.blocks.values() for i in b])
    # Nothing but its own end ends a game here. Rows of unfinished blocks are not counted.
    terminated = np.count_nonzero(kinds == RowKind.TERMINATED)
    games = len(result.rollout.finished)
    assert games > 0
    assert terminated > games if life_loss else 0 < terminated <= games
