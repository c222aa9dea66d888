"""What is suggested in place of an unknown id: Gym's ids of Atari games above all."""

import gymnasium as gym
import pytest

from common.environment_ids import suggestion

PROTOCOL = """--env-kwargs '{"frameskip": 4, "repeat_action_probability": 0.25}'"""


@pytest.mark.parametrize(
    ("env_id", "game"),
    [
        ("PongNoFrameskip-v4", "Pong"),
        ("PongDeterministic-v4", "Pong"),
        ("Pong-v0", "Pong"),
        ("Pong-ram-v4", "Pong"),
        ("Pong-ramNoFrameskip-v4", "Pong"),
        ("ALE/PongNoFrameskip-v5", "Pong"),
        ("pongnoframeskip-v4", "Pong"),
        ("PnogNoFrameskip-v4", "Pong"),
        # MinAtar has it, too, but under an id of its own.
        ("Breakout-v0", "Breakout"),
        ("Breakout-v4", "Breakout"),
        ("BreakoutNoFrameskip-v0", "Breakout"),
        ("SpaceInvadersDeterministic-v4", "SpaceInvaders"),
        ("MsPacmanNoFrameskip-v4", "MsPacman"),
    ],
)
def test_gyms_ids_of_atari_games_are_answered_by_todays_and_their_protocol(
    env_id: str, game: str
) -> None:
    pytest.importorskip("ale_py", reason="the extra atari is not installed")
    assert suggestion(env_id).startswith(f"Did you mean ALE/{game}-v5 (--preset atari)?")
    assert PROTOCOL in suggestion(env_id)


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("CartPole-v4", "Did you mean CartPole-v1?"),
        ("ALE/Pnog-v5", "Did you mean ALE/Pong-v5?"),
        ("Breakout-v1", "Did you mean MinAtar/Breakout-v1?"),
        ("Nothing-like-it-at-all", ""),
    ],
)
def test_other_ids_are_answered_by_the_nearest_one(env_id: str, expected: str) -> None:
    assert suggestion(env_id) == expected


def test_gyms_ids_are_known_without_the_package_that_has_the_games(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    others = {name: spec for name, spec in gym.registry.items() if not name.startswith("ALE/")}
    monkeypatch.setattr(gym, "registry", others)
    assert suggestion("BreakoutNoFrameskip-v4").startswith("Did you mean ALE/Breakout-v5 ")
