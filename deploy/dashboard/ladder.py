"""The ε ladder beside what each of its environments earns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from actor.exploration import epsilon_ladder
from common.config import Config

MAX_RUNGS = 400
"""As many points as a chart can show; with more environments there is one for each actor."""


@dataclass(frozen=True, slots=True)
class Rung:
    """An environment, or all of one actor."""

    actor: int
    env: int | None
    """Place on the ladder; None: all environments of the actor."""
    epsilon: float
    """Of several environments, their mean."""
    episode_return: float | None
    """Mean raw return of the newest episodes; None: none has ended yet."""


def ladder(members: Iterable[dict[str, Any]], config: Config) -> list[Rung]:
    """Of a run's actors, from much exploration to little.

    Args:
        members: as in `learner.status.RunStatus`.
    """
    actors = [m for m in members if m.get("role") == "actor" and m.get("num_envs", 0) > 0]
    ends = [m.get("first_env_index", 0) + m["num_envs"] for m in actors]
    size = max([config.expected_envs, *ends])
    whole = sum(m["num_envs"] for m in actors) > MAX_RUNGS
    rungs: list[Rung] = []
    for member in actors:
        number, first = int(member["number"]), int(member.get("first_env_index", 0))
        count = int(member["num_envs"])
        epsilon = epsilon_ladder(
            first, count, size, config.epsilon_base, config.epsilon_alpha
        ).tolist()
        returns = {int(env): value for env, value in member.get("returns", {}).items()}
        if whole:
            mean = sum(returns.values()) / len(returns) if returns else None
            rungs.append(Rung(number, None, sum(epsilon) / count, mean))
        else:
            rungs += [Rung(number, first + i, e, returns.get(i)) for i, e in enumerate(epsilon)]
    return sorted(rungs, key=lambda rung: (-rung.epsilon, rung.env or 0, rung.actor))
