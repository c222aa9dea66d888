"""Whether a learner reads a replay server's storage itself, and the line that says why not."""

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.block_columns import HEADER_BYTES
from common.errors import ConfigError
from common.messages import Serving
from common.process import machine_id
from common.spec import EnvSpec
from learner.mapped_replay import map_storage
from replay_server.storage import Storage
from tests.unit.learner.storages import SLOTS, SPEC, manifest, serving


def a_file(path: Path) -> Serving:
    run = manifest()
    Storage(SPEC, run.layout, SLOTS, path)
    return serving(path)


def another_shape(path: Path) -> Serving:
    Storage(EnvSpec((3, 3), "|u1", 5), manifest().layout, SLOTS, path)
    return serving(path)


def another_capacity(path: Path) -> Serving:
    Storage(SPEC, manifest().layout, SLOTS + 1, path)
    return serving(path)


def cut_short(path: Path) -> Serving:
    a_file(path)
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 10)
    return serving(path)


def no_header_yet(path: Path) -> Serving:
    """A server reserves the file first and writes the header then."""
    a_file(path)
    with path.open("r+b") as file:
        file.write(b"\0" * HEADER_BYTES)
    return serving(path)


def empty(path: Path) -> Serving:
    path.touch()
    return serving(path)


def a_directory(path: Path) -> Serving:
    path.mkdir()
    return serving(path)


def a_fifo(path: Path) -> Serving:
    os.mkfifo(path)
    return serving(path)


CANNOT_BE_MAPPED: dict[str, tuple[Callable[[Path], Serving], str]] = {
    "memory only": (lambda _: Serving(1, "inproc://r", machine_id(), ""), "memory of its own"),
    "says nothing": (lambda _: Serving(1, "inproc://r"), "memory of its own"),
    "another host": (lambda path: replace(a_file(path), machine="elsewhere"), "another host"),
    "no such file": (serving, "cannot be mapped .*No such file"),
    "another shape": (another_shape, "is another replay's"),
    "another capacity": (another_capacity, "is another replay's"),
    "no header yet": (no_header_yet, "is another replay's"),
    "empty": (empty, "is another replay's"),
    "cut short": (cut_short, "cannot be mapped"),
    "a directory": (a_directory, "cannot be mapped .*directory"),
    "a FIFO": (a_fifo, "is a FIFO"),
}


@pytest.mark.parametrize(("make", "why"), CANNOT_BE_MAPPED.values(), ids=CANNOT_BE_MAPPED)
def test_what_cannot_be_mapped_comes_over_the_wire_and_one_line_says_why(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], Serving],
    why: str,
) -> None:
    server = make(tmp_path / "replay")
    with caplog.at_level(logging.INFO, "learner"):
        assert map_storage(server, manifest()) is None
    (line,) = caplog.messages
    assert line.startswith("batches come over the wire: ")
    assert re.search(why, line)


@pytest.mark.parametrize(("make", "why"), CANNOT_BE_MAPPED.values(), ids=CANNOT_BE_MAPPED)
def test_who_insists_on_shared_memory_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], Serving], why: str
) -> None:
    run = manifest(replay_link="shared_memory")
    with pytest.raises(ConfigError, match=f"replay_link = shared_memory is not possible: .*{why}"):
        map_storage(make(tmp_path / "replay"), run)


@pytest.mark.parametrize("link", ["auto", "shared_memory"])
def test_what_can_be_mapped_is_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, link: str
) -> None:
    server = a_file(tmp_path / "replay")
    with caplog.at_level(logging.INFO, "learner"):
        assert map_storage(server, manifest(replay_link=link)) is not None
    assert caplog.messages == [f"transitions are read from {tmp_path / 'replay'}"]


def test_who_wants_the_wire_gets_it_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "learner"):
        assert map_storage(a_file(tmp_path / "replay"), manifest(replay_link="wire")) is None
    assert caplog.messages == []
