"""The real actor and the real learner's feed go on with what benchmarks put in a head's place."""

from contextlib import ExitStack

from common.manifest import Manifest
from common.spec import EnvSpec
from tests.benchmarks import actor_rounds, fed_rounds

WINDOW_S = 0.05


def test_an_actor_acts_in_a_benchmarks_window() -> None:
    config = actor_rounds.config_of("cartpole", "", num_envs=2)
    manifest = Manifest("benchmark", config, EnvSpec((4,), "<f4", 2))
    with ExitStack() as stack:
        for way, prepare in actor_rounds.WAYS.items():
            found = prepare(manifest, WINDOW_S, stack)()
            assert found["env_steps_per_s"][0] > 0.0, way


def test_a_learner_is_fed_each_way() -> None:
    manifest = fed_rounds.small(fed_rounds.manifest_of_network("mlp", batch_size=32), threads=1)
    with fed_rounds.ways(manifest, WINDOW_S, mirror=False) as measure:
        rates = measure()
    assert rates.keys() == {"static", *fed_rounds.FEEDS}
    assert all(rate > 0.0 for (rate,) in rates.values())
