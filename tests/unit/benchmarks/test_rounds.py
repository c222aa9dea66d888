"""The real actor and the real learner's feed go on with what benchmarks put in a head's place."""

from contextlib import ExitStack

from common.manifest import Manifest
from common.spec import EnvSpec
from tests.benchmarks import actor_rounds, fed_rounds
from tests.benchmarks.contestants import Round
from tests.waiting import wait_until

WINDOW_S = 0.05
"""Short: on a busy machine nothing may have happened in it, and then comes another one."""


def counted_something(found: Round) -> bool:
    return all(value > 0.0 for values in found.values() for value in values)


def test_an_actor_acts_in_a_benchmarks_window() -> None:
    config = actor_rounds.config_of("cartpole", "", num_envs=2)
    manifest = Manifest("benchmark", config, EnvSpec((4,), "<f4", 2))
    with ExitStack() as stack:
        for way, prepare in actor_rounds.WAYS.items():
            measure = prepare(manifest, WINDOW_S, stack)
            wait_until(lambda measure=measure: counted_something(measure()), f"steps of {way}")


def test_a_learner_is_fed_each_way() -> None:
    manifest = fed_rounds.small(fed_rounds.manifest_of_network("mlp", batch_size=32), threads=1)
    with fed_rounds.ways(manifest, WINDOW_S, mirror=False) as measure:
        assert measure().keys() == {"static", *fed_rounds.FEEDS}
        wait_until(lambda: counted_something(measure()), "updates each way")
