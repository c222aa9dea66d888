"""What flows through a run, and who waits: differences of its counters.

While a run goes on they are those of the last seconds; of one that has ended, of all of it.
"""

from dataclasses import dataclass

from deploy.history import Line

WAITS = 0.1
"""From this share of the time on, somebody is said to wait."""
STARVES = 0.5


@dataclass(frozen=True, slots=True)
class Flows:
    """Rates per second; shares of the time, 0 to 1. None: nothing is known of it."""

    env_steps: float | None = None
    updates: float | None = None
    inserts: float | None = None
    """Transitions that the replay stored."""
    samples: float | None = None
    """Transitions that the learner got."""
    priorities: float | None = None
    actors_wait: float | None = None
    """Mean share of an actor's time in which it waits for acknowledgements."""
    learner_waits: float | None = None
    """Share of the time without a batch to train on."""

    @property
    def samples_per_insert(self) -> float | None:
        if self.samples is None or not self.inserts:
            return None
        return self.samples / self.inserts


NOTHING = Flows()


def flows(before: Line, after: Line) -> Flows:
    """Between two lines of metrics.jsonl, of what both tell."""
    elapsed_s: float = after["wall_s"] - before["wall_s"]
    if elapsed_s <= 0.0:
        return NOTHING

    def per_second(name: str) -> float | None:
        if name not in before or name not in after:
            return None
        # A process that was restarted counts from 0 again.
        growth: float = max(after[name] - before[name], 0.0)
        return growth / elapsed_s

    def share(name: str, processes: float = 1.0) -> float | None:
        waited = per_second(name)
        return None if waited is None else min(waited / max(processes, 1.0), 1.0)

    return Flows(
        env_steps=per_second("env_steps"),
        updates=per_second("updates"),
        inserts=per_second("replay_inserted_transitions_total"),
        samples=per_second("replay_sampled_transitions_total"),
        priorities=per_second("replay_priorities_total"),
        actors_wait=share("actor_blocked_seconds_total", after.get("head_actors", 1.0)),
        learner_waits=share("learner_waited_seconds_total"),
    )


def diagnosis(found: Flows) -> str:
    """In one sentence, who holds up whom."""
    actors, learner = found.actors_wait, found.learner_waits
    if actors is None or learner is None:
        return ""
    if actors >= STARVES and learner >= STARVES:
        return "Both sides wait: the replay server or the network between them is the bottleneck."
    if learner >= WAITS and learner >= actors:
        return (
            f"The learner waits {learner:.0%} of the time: it could take more actors, or a larger "
            "samples_per_insert."
        )
    if actors >= WAITS:
        return (
            f"Actors wait {actors:.0%} of the time: the learner sets the pace, and more actors "
            "would not help."
        )
    return "Nobody waits: actors and learner keep pace with each other."
