"""A lab for each test, and a run that several of them put through something."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.cluster import Cluster
from tests.network.lab import Lab, missing


@pytest.fixture(scope="session")
def possible() -> None:
    """Skips what needs a lab where there can be none."""
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def lab(possible: None) -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def cluster(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An impatient one."""
    directory: Path = tmp_path_factory.mktemp("cluster")
    with Lab() as lab, Cluster(lab, directory, impatient=True) as cluster:
        yield cluster
