"""Records on their way to sinks that are slow, fail, or are as they should be."""

import json
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from common import run_directory
from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from learner.recorder import QUEUE_RECORDS, Record, Recorder
from learner.sinks import JsonLines, TensorBoard, open_sinks, scalars
from tests.scarcity import file_size_limit


def record(updates: int = 0, **changes: object) -> Record:
    fields = {"time_s": 1e9 + updates, "wall_s": 2.0 * updates, "env_steps": 10 * updates}
    return Record(**{**fields, "updates": updates, **changes})  # type: ignore[arg-type]


class Kept:
    """Keeps what it gets, as soon as it may."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.may_write = threading.Event()
        self.closed = False

    def write(self, record: Record) -> None:
        self.may_write.wait()
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


class Broken(Kept):
    """Raises for some records, and keeps the others."""

    def __init__(self, error: Exception, *updates: int) -> None:
        super().__init__()
        self.may_write.set()
        self.error, self._updates = error, updates

    def write(self, record: Record) -> None:
        if record.updates in self._updates:
            raise self.error
        super().write(record)


def test_every_sink_gets_every_record_before_it_is_closed() -> None:
    sinks = [Kept(), Kept()]
    for sink in sinks:
        sink.may_write.set()
    recorder = Recorder(sinks)
    for i in range(20):
        recorder.offer(record(i))
    recorder.close()
    for sink in sinks:
        assert [r.updates for r in sink.records] == list(range(20))
        assert sink.closed


def test_what_a_slow_sink_has_no_room_for_is_dropped_and_counted() -> None:
    slow = Kept()
    recorder = Recorder([slow])
    for i in range(QUEUE_RECORDS + 10):
        recorder.offer(record(i))
    # One may be with the sink already.
    assert recorder.dropped in (9, 10)
    slow.may_write.set()
    recorder.close()
    assert len(slow.records) == QUEUE_RECORDS + 10 - recorder.dropped


FULL = OSError("no space left")


@pytest.mark.parametrize(
    ("broken", "kept", "lines"),
    [
        (
            Broken(FULL, 1, 2, 4),
            [0, 3],
            [
                "Broken gets no metrics for now: no space left",
                "Broken gets metrics again",
                "Broken gets no metrics for now: no space left",
            ],
        ),
        (Broken(ValueError("closed"), 1), [0], ["Broken gets no more metrics: closed"]),
    ],
    ids=["a full disk is tried again", "other failures are final"],
)
def test_a_sink_that_fails_is_said_once_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture, broken: Broken, kept: list[int], lines: list[str]
) -> None:
    good = Kept()
    good.may_write.set()
    recorder = Recorder([broken, good])
    for i in range(5):
        recorder.offer(record(i))
    recorder.close()
    assert len(good.records) == 5
    assert [r.updates for r in broken.records] == kept
    assert [r.getMessage() for r in caplog.records] == lines
    # Whoever is left out gets no more records, so there are none to be dropped.
    assert recorder.dropped == (3 if isinstance(broken.error, OSError) else 1)


# ----------------------------------------------------------------------------------- lines of JSON


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_moment_the_values_the_episodes_and_the_score(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    score = {"return_mean": 9.5, "return_std": 1.0, "episodes": 20, "updates": 3}
    sink.write(record(3, values={"learner_loss": 0.123456789}))
    sink.write(record(4, episode_returns=[1.0, -2.5], episode_lengths=[7, 9], evaluation=score))
    sink.close()
    assert lines_of(tmp_path / "metrics.jsonl") == [
        {"time": 1e9 + 3, "wall_s": 6.0, "env_steps": 30, "updates": 3, "learner_loss": 0.123457},
        {
            "time": 1e9 + 4,
            "wall_s": 8.0,
            "env_steps": 40,
            "updates": 4,
            "episode_returns": [1.0, -2.5],
            "episode_lengths": [7, 9],
            "evaluation": score,
        },
    ]


def test_a_resumed_run_goes_on_behind_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"updates": 1}\n{"upda')
    sink = JsonLines(path)
    sink.write(record(2))
    sink.close()
    first, cut, last = path.read_text().splitlines()
    assert (json.loads(first)["updates"], cut, json.loads(last)["updates"]) == (1, '{"upda', 2)


def test_a_line_that_a_full_disk_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink.write(record(1))
    for room in (9, 0):  # Bytes that are left on the disk.
        with (
            file_size_limit(path.stat().st_size + room),
            pytest.raises(OSError, match=r"No space left|File too large"),
        ):
            sink.write(record(2))
    sink.write(record(3))
    sink.close()
    first, cut, last = path.read_text().splitlines()
    assert json.loads(first)["updates"] == 1
    assert len(cut) == 9
    assert json.loads(last)["updates"] == 3


def test_metrics_that_cannot_be_written_at_all_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot write metrics to .*gone"):
        open_sinks(tmp_path / "gone", Config())


# -------------------------------------------------------------------------------------------- tags


def test_curves_have_the_names_that_the_ecosystem_knows() -> None:
    blocked = "replay_insert_blocked_seconds_total"
    score = {"return_mean": 9.5, "return_std": 1.0, "episodes": 20.0, "updates": 3.0}
    last = record(10, values={blocked: 3.0})
    now = record(
        20,
        values={"learner_loss": 0.5, "learner_mean_q": 4.0, blocked: 8.0},
        episode_returns=[1.0, 2.0],
        episode_lengths=[10, 30],
        evaluation=score,
    )
    assert scalars(now, last, replay_servers=1) == {
        "losses/td_loss": 0.5,
        "losses/q_values": 4.0,
        # 100 steps, 10 updates and 5 s of waiting in 20 s.
        "charts/SPS": 5.0,
        "charts/updates_per_second": 0.5,
        "charts/actors_waiting": 0.25,
        "charts/episodic_return": 1.5,
        "charts/episodic_length": 20.0,
        "eval/episodic_return": 9.5,
        "eval/episodic_return_std": 1.0,
    }


def test_tensorboard_has_a_score_at_the_steps_of_its_version(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, Config(), tmp_path)
    score = {"return_mean": 9.5, "return_std": 1.0, "episodes": 20.0, "updates": 3.0}
    values = {"learner_loss": 0.5}
    board.write(record(70, values=values, evaluation={**score, "env_steps": 30.0}))
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("losses/td_loss")] == [700]
    assert [(e.step, e.value) for e in events.Scalars("eval/episodic_return")] == [(30, 9.5)]


def test_tensorboard_does_not_show_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def learn(env_steps: int, *updates: int) -> None:
        """From that checkpoint to the learner's death."""
        board = TensorBoard(tmp_path, Config(), tmp_path, env_steps)
        for update in updates:
            board.write(record(update, values={"learner_loss": 0.5}))
        board.close()

    learn(0, 10, 20, 30)
    learn(200, 25, 35)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("losses/td_loss")] == [100, 200, 250, 350]
    assert events.Tensors("hyperparameters/text_summary")


@pytest.mark.parametrize(
    ("counted_s", "brought_s", "share"),
    [
        (50.0, 0.0, 1.0),  # More than two servers can wait in 20 s.
        # One of them came back to a restarted head, having waited an hour.
        (3_600.0, 3_600.0, 0.0),
        (3_610.0, 3_600.0, 0.25),
    ],
)
def test_the_share_of_waiting_is_of_now(counted_s: float, brought_s: float, share: float) -> None:
    blocked = "replay_insert_blocked_seconds_total"
    last = record(10, values={blocked: 3.0}, brought={blocked: 1.0})
    now = record(20, values={blocked: 3.0 + counted_s}, brought={blocked: 1.0 + brought_s})
    assert scalars(now, last, replay_servers=2)["charts/actors_waiting"] == share


def test_the_first_record_has_no_rates() -> None:
    assert scalars(record(10), None, replay_servers=1) == {}


def test_actors_of_several_replay_servers_wait_as_long_as_those_of_one(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, Config(replay_servers=4), tmp_path)
    # All four wait for half of 20 s.
    for updates, waited_s in ((10, 3.0), (20, 43.0)):
        board.write(record(updates, values={"replay_insert_blocked_seconds_total": waited_s}))
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("charts/actors_waiting")] == [0.5]


def test_weights_and_biases_has_a_run_under_one_id_for_as_long_as_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, config = Mock(), Config(wandb_project="p")
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def begin(run_dir: Path) -> None:
        for sink in open_sinks(run_dir, config):
            sink.close()

    run_dir, elsewhere = tmp_path / "dqn", tmp_path / "elsewhere" / "dqn"
    for place in (run_dir, elsewhere):
        run_directory.create(place, config)
        begin(place)
    begin(run_dir)
    run_directory.create(run_dir, config, overwrite=True)
    begin(run_dir)
    begun: list[dict[str, Any]] = [call.kwargs for call in wandb.init.call_args_list]
    first, other, resumed, anew = (said["id"] for said in begun)
    assert resumed == first
    assert len({first, other, anew}) == 3
    assert all((said["name"], said["resume"]) == ("dqn", "allow") for said in begun)


@pytest.mark.parametrize(
    ("config", "package", "hint"),
    [
        (Config(tensorboard=True), "tensorboard", "zapex[watch]"),
        (Config(wandb_project="p"), "wandb", "zapex[wandb]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    config: Config, package: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, f"torch.utils.{package}"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ConfigError) as raised:
        open_sinks(tmp_path, config)
    assert hint in str(raised.value)
