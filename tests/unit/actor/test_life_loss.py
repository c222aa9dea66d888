"""A lost life ends an episode for the learner, and for nobody else."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper

from actor.rollout import Rollout
from common.blocks import RowKind
from common.config import Config
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest
from tests.collector import Hashed, Played, assert_same, collect, play, stacked
from tests.environments import Film

SEED = 40
LETTERS = {
    RowKind.STEP: ".",
    RowKind.FIRST: "F",
    RowKind.TERMINATED: "T",
    RowKind.TRUNCATED: "C",
}
"""F begins an episode; T has terminated, C was cut off."""
AUTORESETS = ("next_step", "same_step")

Games = list[tuple[str, str]]


def film(games: Games, **changes: Any) -> Config:
    """See `tests.environments.Film` for the signs of a game."""
    settings = {
        "env": "tests.environments:Film-v0",
        "env_kwargs": {"games": games},
        "discount": 0.5,
        "life_loss_ends_episode": True,
        **changes,
    }
    return Config(**settings)


def played(config: Config, num_envs: int = 1, calls: int = 40) -> Played:
    return play(make_vector(config, num_envs), config, Hashed(3), SEED, calls)


def rows(played: Played, stream: int = SEED) -> str:
    """The kinds of a stream's rows, in blocks of one row that may start a transition."""
    assert played.manifest.layout.length == 1
    context = played.manifest.layout.context
    return "".join(LETTERS[RowKind(int(i.row_kind[0, context]))] for i in played.blocks[stream])


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize(
    ("signs", "ending", "expected"),
    [
        # A game without a loss: s₀ s₁ s₂ and its end s₃.
        ("...", "terminated", "F..T"),
        # The life is lost in the second step: s₂ ends an episode and begins another.
        (".-..", "terminated", "F.TF.T"),
        (".-..", "truncated", "F.TF.C"),
        (".-..", "both", "F.TF.T"),
        ("-..", "terminated", "FTF.T"),
        # Lives lost in steps that follow each other: episodes of one step.
        ("--.", "terminated", "FTFTFT"),
        # Life and game are lost together: one end, not two.
        ("..-", "terminated", "F..T"),
        ("-", "terminated", "FT"),
        # Cut off in the step that costs a life: the game was cut off.
        ("..-", "truncated", "F..C"),
        # A life that is won ends nothing, and its loss is one.
        ("+..", "terminated", "F..T"),
        (".+-.", "terminated", "F..TFT"),
        ("-+-.", "terminated", "FTF.TFT"),
        # The game ends with more lives than the next one begins with: that is no loss.
        ("++", "terminated", "F.T"),
        ("++", "truncated", "F.C"),
    ],
)
def test_a_lost_life_makes_two_rows_of_one_observation(
    signs: str, ending: str, expected: str, frame_stack: int, autoreset: str
) -> None:
    config = film(
        [(signs, ending)],
        block_length=1,
        n_step=1,
        frame_stack=frame_stack,
        autoreset=autoreset,
    )
    result = played(config)
    found = rows(result)
    assert len(found) > 3 * len(expected)
    assert found == (expected * 40)[: len(found)]
    context = result.manifest.layout.context
    stream = [
        (insert.row_kind[0, context], insert.obs[0, context]) for insert in result.blocks[SEED]
    ]
    for (kind, obs), (_, next_obs) in pairwise(stream):
        step, lives = obs.flat[2], obs.flat[3]
        if kind == RowKind.TERMINATED and step < len(signs):
            assert np.array_equal(obs, next_obs)  # The game goes on.
        elif kind & RowKind.LAST:
            assert (next_obs.flat[2], next_obs.flat[3]) == (0, 3)
        else:
            assert next_obs.flat[2] == step + 1
            assert abs(int(next_obs.flat[3]) - int(lives)) <= 1


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_lives_mean_nothing_unless_they_are_to(autoreset: str) -> None:
    config = film(
        [("-.--.", "terminated")],
        life_loss_ends_episode=False,
        block_length=1,
        n_step=1,
        autoreset=autoreset,
    )
    assert rows(played(config)).startswith("F....TF....TF....T")


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_discounts_and_returns_end_with_the_life_by_hand(autoreset: str) -> None:
    """Actions are always 0, so that rewards are (7·game + 3·step) mod 16: 0, 3, 6, 9, 12 in game 0.
    Its life is lost in the second step. n = 3, γ = ½.

        step         0         1     │ 2               3         4
        G            0 + 3/2   3     │ 6 + 9/2 + 12/4  9 + 12/2  12
        discount     0         0     │ 0               0         0
    """
    config = film([(".-...", "terminated")], n_step=3, block_length=8, autoreset=autoreset)

    def prefer_0(obs: Any) -> Any:
        return np.tile(np.array([1, 0, 0], np.float32), (len(obs), 1))

    result = play(make_vector(config, 1), config, prefer_0, SEED, 20)
    found = result.transitions(SEED)
    assert [t.n_step_return for t in found[:5]] == [1.5, 3.0, 13.5, 15.0, 12.0]
    assert [t.discount for t in found[:5]] == [0.0] * 5
    # The life's last picture is what the transitions before the loss lead to.
    assert [t.next_obs.flat[2] for t in found[:5]] == [2, 2, 5, 5, 5]


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("block_length", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_life_may_be_lost_in_any_row_of_a_block(
    n_step: int, block_length: int, autoreset: str
) -> None:
    """Games of 5 steps and 7 rows against blocks of 1 to 7: the rows of a loss fall everywhere, and
    complete blocks, too."""
    config = film(
        [("..-..", "terminated")],
        n_step=n_step,
        block_length=block_length,
        frame_stack=2,
        autoreset=autoreset,
    )
    result = played(config, calls=80)
    found = result.transitions(SEED)
    assert len(found) > 50
    env = stacked(Film(**config.env_kwargs), config)
    assert_same(found, collect(env, config, Hashed(3), SEED, len(found)))


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_environments_lose_their_lives_one_by_one_and_together(autoreset: str) -> None:
    # Seeds 40, 41 and 42 begin with games 1, 2 and 0 of these.
    games: Games = [(".-.-", "truncated"), ("-..", "terminated"), (".-.", "terminated")]
    config = film(games, frame_stack=3, block_length=2, n_step=2, autoreset=autoreset)
    result = played(config, num_envs=3, calls=60)
    for seed in (SEED, SEED + 1, SEED + 2):
        found = result.transitions(seed)
        assert len(found) > 30
        env = stacked(Film(**config.env_kwargs), config)
        assert_same(found, collect(env, config, Hashed(3), seed, len(found)))


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("life_loss", [False, True])
def test_returns_lengths_and_steps_are_those_of_whole_games(
    life_loss: bool, autoreset: str
) -> None:
    """Action 0 always. Game 0 earns 0 + 3 + 6 + 9 = 18, game 1 7 + 10 = 17, and game 2, which
    begins at 14, 14 + 1 + 4 + 7 = 26 (modulo 16)."""
    games: Games = [(".-.-", "terminated"), ("-.", "truncated"), ("..-.", "terminated")]
    seed = 42  # It begins with game 42 mod 3 = 0.
    config = film(games, life_loss_ends_episode=life_loss, autoreset=autoreset, reward_clip=1.0)

    def prefer_0(obs: Any) -> Any:
        return np.tile(np.array([1, 0, 0], np.float32), (len(obs), 1))

    # NEXT_STEP spends one more call for each reset but the first.
    calls = 12 if autoreset == "next_step" else 10
    rollout = play(make_vector(config, 1), config, prefer_0, seed, calls).rollout
    assert rollout.finished == [(18.0, 4, 0), (17.0, 2, 0), (26.0, 4, 0)]
    assert rollout.env_steps == 10


def test_both_autoreset_modes_give_the_same_blocks_byte_for_byte() -> None:
    games: Games = [(".-.-", "truncated"), ("-..", "terminated"), ("+--", "both")]
    config = film(games, frame_stack=3, block_length=2, n_step=2)
    one, other = (
        played(config.model_copy(update={"autoreset": mode}), 3, 60).blocks for mode in AUTORESETS
    )
    for seed in (SEED, SEED + 1, SEED + 2):
        pairs = list(zip(one[seed], other[seed], strict=False))
        assert len(pairs) > 15
        for a, b in pairs:
            for name in ("obs", "action", "reward", "row_kind", "priority"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


# --------------------------------------------------------------------- environments that surprise


class Reuses(VectorWrapper[Any, Any, Any, Any]):
    """Hands out the same array of lives again and again, as fast vector environments may."""

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        self._lives = info["lives"].copy()
        return obs, {**info, "lives": self._lives}

    def step(self, actions: Any) -> Any:
        *results, info = self.env.step(actions)
        self._lives[:] = info["lives"]
        return *results, {**info, "lives": self._lives}


class TellsItsLivesOnce(gym.Wrapper[Any, Any, Any, Any]):
    """In `reset`, and never again."""

    def step(self, action: Any) -> Any:
        *results, _ = self.env.step(action)
        return *results, {}


def test_lives_in_an_array_that_is_reused_are_seen_to_be_lost() -> None:
    config = film([(".-.", "terminated")], block_length=1, n_step=1)
    result = play(Reuses(make_vector(config, 1)), config, Hashed(3), SEED, 20)
    assert rows(result).startswith("F.TFTF.TFT")


def test_an_environment_that_stops_telling_its_lives_is_named() -> None:
    config = film([(".-.", "terminated")])
    vector = gym.vector.SyncVectorEnv([lambda: TellsItsLivesOnce(Film())])
    manifest = Manifest("run", config, spec_of(vector))
    rollout = Rollout(vector, manifest, Hashed(3), np.random.default_rng(0), SEED)
    with pytest.raises(EnvironmentFault, match=r"Film-v0 .*info\['lives'\]"):
        rollout.step(np.zeros(1))
    vector.close()
