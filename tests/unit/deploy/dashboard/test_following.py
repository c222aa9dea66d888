"""metrics.jsonl while it grows, breaks off, is replaced, or is too long to be read."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy.dashboard import following
from deploy.dashboard.following import BACK_S, MAX_LINES, RECENT, Following, pieces


def line(i: int, **values: Any) -> dict[str, Any]:
    return {"time": 1e9 + i, "wall_s": float(i), "env_steps": 10 * i, "updates": i, **values}


def text(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(x) + "\n" for x in lines)


def append(path: Path, added: str) -> None:
    with path.open("a") as file:
        file.write(added)


def followed(path: Path) -> Following:
    reader = Following(path)
    reader.read()
    return reader


def steps(reader: Following) -> list[int]:
    return [x["env_steps"] for x in reader.lines]


def test_what_is_new_is_taken_in_and_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = followed(path)
    assert (reader.lines, reader.recent, reader.first) == ([], [], None)
    whole = text(line(3))
    append(path, text(line(1), line(2)) + whole[:20])
    reader.read()
    assert steps(reader) == [10, 20]
    append(path, whole[20:])
    reader.read()
    assert steps(reader) == [10, 20, 30]
    assert reader.unreadable == 0


def test_lines_that_are_none_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    # A killed run's half line, which the resumed one ended; another version's; no object.
    append(path, text(line(1)) + '{"env_st\n' + '{"steps": 4}\n' + "7\n" + text(line(2)))
    append(path, '{"env_steps": null, "wall_s": 3.0}\n')
    reader = followed(path)
    assert steps(reader) == [10, 20]
    assert reader.unreadable == 4


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, text(line(1, learner_loss="high", episode_returns=[1.0], evaluation=7)))
    reader = followed(path)
    assert reader.lines == [{"wall_s": 1.0, "env_steps": 10}]
    assert reader.recent == [line(1)]


def test_a_file_that_became_shorter_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, text(*map(line, range(9))))
    reader = followed(path)
    path.write_text(text(line(5)))
    reader.read()
    assert steps(reader) == [50]
    path.unlink()
    reader.read()
    assert steps(reader) == []


def test_of_older_lines_only_curves_and_evaluations_are_kept_of_the_newest_everything(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    evaluation = {"env_steps": 10, "wall_s": 1.0, "return_mean": 9.0}
    append(path, text(line(1, learner_loss=0.5, evaluation=evaluation, replay_transitions=3)))
    reader = followed(path)
    place = {"wall_s": 1.0, "env_steps": 10}
    assert reader.lines == [place | {"learner_loss": 0.5}, place | {"evaluation": evaluation}]
    assert reader.recent == [line(1, learner_loss=0.5, evaluation=evaluation, replay_transitions=3)]
    append(path, text(*map(line, range(2, 30))))
    reader.read()
    assert [x["updates"] for x in reader.recent] == list(range(30 - RECENT, 30))


def test_however_many_lines_there_are_few_are_kept_evenly_and_no_evaluation_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    count = 5 * MAX_LINES
    lines = [line(i, **({"evaluation": {"return_mean": i}} if i % 1_000 == 7 else {}))
             for i in range(count)]  # fmt: skip
    append(path, text(*lines))
    reader = followed(path)
    curve = [x["wall_s"] for x in reader.lines if "evaluation" not in x]
    assert MAX_LINES // 2 <= len(curve) <= MAX_LINES
    # 20,000 lines, 4,000 kept at most: every 8th, from the first on.
    assert curve == list(range(0, count, 8))
    kept = [x["evaluation"]["return_mean"] for x in reader.lines if "evaluation" in x]
    assert kept == list(range(7, count, 1_000))


def test_counters_that_fall_begin_a_new_part_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    waited = "learner_waited_seconds_total"
    append(path, text(line(1, **{waited: 3.0}), line(2, **{waited: 4.0}), line(3, **{waited: 0.5})))
    reader = followed(path)
    assert reader.first is not None
    assert reader.first["updates"] == 3
    assert [x["updates"] for x in reader.recent] == [3]
    # It has begun when the members have had the time to come back.
    last = 3 + int(BACK_S) + 2
    append(path, text(*(line(i, **{waited: 0.6}) for i in range(4, last + 1))))
    reader.read()
    assert reader.first["updates"] == last - 3
    assert [x["updates"] for x in reader.recent] == list(range(last - 3, last + 1))
    assert len(reader.lines) == last


def test_what_is_told_later_than_the_first_line_begins_with_its_first_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    inserted = "replay_inserted_transitions_total"
    append(path, text(line(1), line(2, **{inserted: 70.0}), line(3, **{inserted: 90.0})))
    assert followed(path).first == line(1, **{inserted: 70.0})


def test_a_short_file_is_read_whole_and_a_long_one_in_even_pieces() -> None:
    assert pieces(100, 5_000) == [(100, 5_000)]
    size = 100 * following.MAX_READ_BYTES
    found = pieces(0, size)
    assert len(found) == following.PIECES
    assert found[0][0] == 0
    assert found[-1][1] == size
    assert sum(end - begin for begin, end in found) == following.MAX_READ_BYTES
    assert all(before[1] <= after[0] for before, after in pairwise(found))


def test_a_long_file_gives_lines_from_all_over_it_none_twice_none_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "MAX_READ_BYTES", 16_000)
    monkeypatch.setattr(following, "PIECES", 8)
    path = tmp_path / "metrics.jsonl"
    append(path, text(*map(line, range(3_000))))
    reader = followed(path)
    found = [x["wall_s"] for x in reader.lines]
    assert reader.skipped
    assert reader.unreadable == 0
    assert found == sorted(set(found))
    assert found[0] == 0
    assert found[-1] == 2_999
    assert len(found) < 300
    # Eight even pieces leave seven gaps.
    assert max(b - a for a, b in pairwise(found)) <= 3_000 / 7
    append(path, text(line(3_000)))
    reader.read()
    assert reader.lines[-1]["wall_s"] == 3_000
