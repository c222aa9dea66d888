"""What the figures must reach, on two cores; ratios are taken within one run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.report import Figure, number, ratio

Against = Literal["limit", "peer", "value"]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's ratio to its limit or to its best peer, or its value, and where it must lie."""

    figure: str
    against: Against
    at_least: float = 0.0
    at_most: float = float("inf")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured."""

    target: Target
    figure: Figure
    found: float

    @property
    def reached(self) -> bool:
        return self.target.at_least <= self.found <= self.target.at_most

    def cells(self) -> list[str]:
        """figure, what it is compared with, required, measured, reached."""
        target, figure = self.target, self.figure
        against = {"limit": figure.limit_name, "peer": figure.peer_name, "value": figure.unit}
        show = number if target.against == "value" else ratio
        required = f"≥ {show(target.at_least)}" if target.at_least else f"≤ {show(target.at_most)}"
        return [
            target.figure,
            against[target.against] or "",
            required,
            show(self.found),
            "yes" if self.reached else "**no**",
        ]


def _targets() -> Iterator[Target]:
    for insert in ("50", "actor"):
        vectors = f"replay_served.vectors.{insert}.wire"
        for name in ("in_2_writers", "out_1_reader", "both_in_2_writers", "both_out_1_reader"):
            yield Target(f"{vectors}.{name}", "limit", at_least=0.8)
            yield Target(f"{vectors}.{name}", "peer", at_least=5.0)
        frames = f"replay_served.frames.{insert}"
        yield Target(f"{frames}.wire.in_2_writers", "limit", at_least=0.8)
        yield Target(f"{frames}.wire.out_1_reader", "peer", at_least=2.0)
        yield Target(f"{frames}.shared_memory.out_1_reader", "limit", at_least=0.8)
        yield Target(f"{frames}.shared_memory.out_1_reader", "peer", at_least=2.0)
    for observations in ("vectors", "frames"):
        confirm = f"replay_served.{observations}.50.wire.confirm"
        yield Target(f"{confirm}_p50", "value", at_most=250.0)
        yield Target(f"{confirm}_p99", "value", at_most=2_000.0)
    for case in (
        "cartpole.vector_entry_point.16_envs",
        "cartpole.sync.16_envs",
        "minatar-breakout.vector_entry_point.16_envs",
        "pong.vector_entry_point.32_envs",
    ):
        yield Target(f"actor_pipeline.{case}", "limit", at_least=0.9)
    for case in ("mlp.512", "minatar.256", "nature.32", "nature.128", "nature.512"):
        yield Target(f"learner_fed.{case}.shared_memory", "limit", at_least=0.97)
    for how in ("counted", "measured"):
        yield Target(f"transition_memory.frames.blocks_of_64.{how}", "limit", at_most=1.1)
    yield Target("curve.end_to_end.cartpole.env_steps", "limit", at_least=0.9)
    yield Target("telemetry_head.1000_actors.cpu", "value", at_most=5.0)
    # Held, but for what is on its way at a window's ends.
    for name in ("stored", "batches"):
        yield Target(f"scale.frames.360_actors.{name}", "limit", at_least=0.99)
    yield Target("scale.join.200_actors.accepted_max", "value", at_most=2.0)
    for rate in ("env_steps", "updates"):
        yield Target(f"sinks.cartpole.{rate}", "limit", at_least=0.97)


TARGETS = tuple(_targets())


def verdicts(figures: Iterable[Figure], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Of the targets whose figure was measured, and beside what it must be."""
    by_name: Mapping[str, Figure] = {figure.name: figure for figure in figures}
    found = []
    for target in targets:
        figure = by_name.get(target.figure)
        if figure is None:
            continue
        value = {
            "limit": figure.vs_limit,
            "peer": figure.vs_peer,
            "value": figure.value,
        }[target.against]
        if value is not None:
            found.append(Verdict(target, figure, value))
    return found
