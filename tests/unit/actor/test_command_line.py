"""`python -m actor`, as far as it comes without a head."""

import sys

import pytest

import actor.__main__


def test_two_roles_at_once_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actor", "--evaluator", "--inference"])
    assert actor.__main__.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --evaluator, --inference and --relay are different processes")


def test_videos_are_an_evaluators_business(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actor", "--videos", "films"])
    assert actor.__main__.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --videos is where an --evaluator films: nobody else does"
