"""Addresses of the page, which people keep."""

import urllib.request
from pathlib import Path

import pytest

from deploy.dashboard.beside import page_beside
from tests.made_runs import make_finished_run
from tests.waiting import wait_until

pytest.importorskip("nicegui", reason="the extra dashboard is not installed")


def test_an_address_that_compares_with_a_run_that_is_gone_or_with_itself_shows_the_first(
    tmp_path: Path,
) -> None:
    make_finished_run(tmp_path / "a", 0, seconds=10)
    said: list[str] = []
    with page_beside(tmp_path, said.append):
        address = wait_until(lambda: said, "the address", limit_s=60.0)[0].split(" at ")[-1]
        for versus in ("gone", "a"):
            with urllib.request.urlopen(f"{address}?run=a&versus={versus}") as answer:
                assert answer.status == 200
