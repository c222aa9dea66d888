"""`python -m tests.benchmarks NAME`."""

from importlib import import_module

import tyro

NAMES = (
    "actor_pipeline",
    "all",
    "compose",
    "compression",
    "curve",
    "dashboard",
    "end_to_end",
    "engines",
    "env_stepping",
    "inference",
    "learner_fed",
    "learner_update",
    "machine",
    "memory",
    "replay_served",
    "replay_storage",
    "scale",
    "sinks",
    "solve",
    "sum_tree",
    "telemetry_head",
    "transition_memory",
    "weights_broadcast",
)


def main() -> None:
    """Each benchmark is a function `run` whose parameters are its options."""
    tyro.extras.subcommand_cli_from_dict(
        {name: import_module(f"tests.benchmarks.{name}").run for name in NAMES},
        prog="python -m tests.benchmarks",
        description="Measures zapex beside limits and peers.",
    )


if __name__ == "__main__":
    main()
