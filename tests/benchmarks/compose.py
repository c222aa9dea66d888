"""What containers cost: a run of docker-compose.yml beside the same processes without containers.

Both have keys, so that both encrypt; environment steps are counted as in `end_to_end`. Rounds in
containers and without take turns; figures are medians over them. The limit is the speed without
containers in the same run. Wants a Docker engine and Compose; ZAPEX_BASE_IMAGE and
ZAPEX_TORCH_INDEX say what the image is built from, as in deploy/.env.
"""

import os
import statistics
import tempfile
from contextlib import closing
from pathlib import Path

from common.keys import PATH_VARIABLE
from common.security import open_security
from deploy.status_client import StatusClient
from tests.benchmarks import end_to_end
from tests.benchmarks.report import Figure, report
from tests.docker.engine import Project, compose_commands, engine
from tests.docker.engine import run as run_command
from tests.waiting import wait_until

WITHOUT = "bare processes"
START_TIMEOUT_S = 300.0


def run(
    preset: str = "cartpole",
    rounds: int = 5,
    window_s: float = 20.0,
    settle_s: float = 3.0,
    json: bool = False,
) -> None:
    """Environment steps per second in containers, beside those without.

    Args:
        preset: Of deploy/presets; its extra must be installed here, too.
        rounds: Times that each is measured.
        window_s: Seconds for which a run is measured.
        settle_s: Seconds from when one side waited for the other to the window's begin.
        json: Print one line of JSON for each figure.
    """
    report(figures(preset, rounds, window_s, settle_s), as_json=json)


def figures(preset: str, rounds: int, window_s: float, settle_s: float) -> list[Figure]:
    """The speed in containers, beside the same without."""
    speeds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="zapex-") as temporary, engine(Path(temporary)):
        project = Project(
            compose_commands()[0],
            f"zapex-benchmark-{os.getpid()}",
            ZAPEX_PRESET=preset,
            ZAPEX_RUN=preset,
            ZAPEX_OPTIONS=f"--target-return none --total-env-steps {end_to_end.ENDLESS}",
        )
        project.compose("build", "learner")
        for i in range(rounds):
            keys = Path(temporary) / f"keys-{i}"
            speeds[True].append(_speed_in_containers(project, keys, window_s, settle_s))
            os.environ[PATH_VARIABLE] = str(keys)
            try:
                speed = end_to_end.speed_of(preset, window_s, settle_s)
            finally:
                del os.environ[PATH_VARIABLE]
            speeds[False].append(speed.env_steps_per_s)
    ours, bare = statistics.median(speeds[True]), statistics.median(speeds[False])
    return [
        Figure(f"compose.{preset}.env_steps", ours, "env steps/s", bare, limit_name=WITHOUT),
    ]


def _speed_in_containers(project: Project, keys: Path, window_s: float, settle_s: float) -> float:
    """Of a new run, whose keys are left at `keys`."""
    try:
        project.compose("up", "--detach", "--no-build")
        (learner,) = project.containers("learner")
        wait_until(lambda: "head at" in project.log("learner"), "there is a head", START_TIMEOUT_S)
        run_command("docker", "cp", f"{learner}:/keys", str(keys))
        (address,) = project.inspect(
            "learner", "range .NetworkSettings.Networks}}{{.IPAddress}}{{end"
        )
        # As its host reaches it, on the bridge between them.
        with closing(StatusClient(f"tcp://{address}:5550", security=open_security(keys))) as status:
            return end_to_end.speed_seen(status, window_s, settle_s).env_steps_per_s
    finally:
        project.compose("down", "--volumes", check=False)
