"""Where a run can be asked how it goes, what it answers, and what is left of that."""

import json
import signal
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, Status, head_of, status, until, write_preset


def told_all(now: Status) -> bool:
    """Whether there are returns by environment, and the histograms of the replay."""
    returns = [m["returns"] for m in now["members"] if m["role"] == "actor"]
    wanted = {"replay_sampled_age", "replay_new_priority"}
    return any(returns) and wanted <= now["histograms"].keys()


def test_a_run_says_where_its_head_is_and_leaves_its_last_answer(
    start: Start, tmp_path: Path
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    run_dir = tmp_path / "run"
    launch = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir))
    head = head_of(launch)
    assert (run_dir / "head").read_text() == f"{head}\n"
    # Over the wire, where keys are text.
    now = status(head, told_all)
    (actor,) = (m for m in now["members"] if m["role"] == "actor")
    assert set(actor["returns"]) <= {"0", "1", "2", "3"}
    assert actor["first_env_index"] == 0
    # Ten ranges, and the sum of all that was sampled.
    assert len(now["histograms"]["replay_sampled_age"]) == 11

    def left() -> Status | None:
        if not (run_dir / "status.json").exists():
            return None  # The learner does not stand yet.
        found: Status = json.loads((run_dir / "status.json").read_text())
        return found if told_all(found) else None

    until((run_dir / "status.json").exists, "the first status that is left")
    until(left, "the status of a run with actors")
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    assert not (run_dir / "head").exists()
    assert left()


def test_a_run_in_threads_tells_no_address_and_leaves_its_status(finished_run: Path) -> None:
    assert not (finished_run / "head").exists()
    left = json.loads((finished_run / "status.json").read_text())
    assert left["run_id"] == finished_run.name
