"""Two cannot run in one directory, however they were started; the first one does not notice."""

from pathlib import Path

from common.errors import RunDirectoryError
from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, PACED, head_of, status, updates_beyond, write_preset
from tests.integration.test_bad_input import error_of


def test_a_run_that_goes_on_is_nobody_elses(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS, **PACED)
    run = start("deploy", "launch", "--preset", preset, "--run-dir", "run")
    head = head_of(run)
    before = status(head, updates_beyond(20))["learner"]["updates"]
    # Side by side: the run holds both locks all the time, so that none of these ever has one.
    refused = [
        ("launcher", start("deploy", "launch", "--resume", "run")),
        ("launcher", start("deploy", "launch", "--preset", preset, "--run-dir", "run",
                           "--overwrite")),
        ("learner", start("learner", "--run-dir", "run", "--bind", "tcp://127.0.0.1:0",
                          "--resume")),
    ]  # fmt: skip
    for role, command in refused:
        assert command.wait() == RunDirectoryError.exit_code
        assert error_of(command) == (
            f"error: run is in use by another {role}: stop that one, or choose another --run-dir"
        )
    status(head, updates_beyond(before + 20))
    assert run.process.poll() is None
