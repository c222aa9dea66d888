"""Fixtures of several files."""

import mmap
import os
from typing import Any

import pytest


@pytest.fixture
def nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not(*_: Any, **__: Any) -> None:
        raise AssertionError("memory or disk space was taken")

    monkeypatch.setattr(mmap, "mmap", must_not)
    monkeypatch.setattr(os, "posix_fallocate", must_not)
