"""Blocks of real games against Gymnasium's wrappers: pictures, lives, truncation and resets."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common import minatar
from common.blocks import RowKind
from common.config import Config
from tests.collector import Hashed, assert_same, collect, play, stacked

SEED = 60
Make = Callable[[], gym.Env[Any, Any]]


class Labelled(gym.Wrapper[Any, Any, Any, Any]):
    """Writes the seed into the first number of every observation, by which streams are told."""

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
        obs.flat[0] = self._seed
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
