"""Feeds of both kinds, and several replay servers, on both paths."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import zmq

from tests.unit.learner import sharding
from tests.unit.learner.feeding import Context, Kind, Stage, Start, inline_feed, prefetcher


@pytest.fixture(params=[prefetcher, inline_feed])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=["wire", "shared memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Of the storage that the learner reads, if it does."""
    return tmp_path / "replay" if request.param == "shared memory" else None


@pytest.fixture
def context() -> Iterator[Context]:
    # Its end waits for every socket to be closed.
    with zmq.Context() as context:
        yield context


@pytest.fixture
def stages(context: Context, kind: Kind, path: Path | None) -> Iterator[Start]:
    """Starts the one stage of a test, with changes of the configuration."""
    with ExitStack() as ends:
        yield lambda **changes: ends.enter_context(closing(Stage(context, kind, path, **changes)))


@pytest.fixture
def shards(context: Context, path: Path | None) -> Iterator[sharding.Start]:
    """Starts the one stage of a test, with these priorities and changes of the configuration."""
    with ExitStack() as ends:
        yield lambda priorities, **changes: sharding.Stage(
            context, ends, path, priorities, **changes
        )
