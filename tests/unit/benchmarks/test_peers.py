"""A peer that is not installed is one thing, a peer that does not load another: both are told."""

import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import sum_tree
from tests.benchmarks.all import _measure
from tests.benchmarks.contestants import Contestant, take_turns
from tests.benchmarks.peers import Peers

ABSENT = 'raise ModuleNotFoundError("No module named \'cpprb\'", name="cpprb")'
NOT_INSTALLED = "cpprb is not installed"
CASES = [
    (ABSENT, NOT_INSTALLED),
    ("import no_such_dependency", "does not load: No module named 'no_such_dependency'"),
    (
        'raise ImportError("/opt/lib/libtree.so.1: cannot open shared object file\\nby /opt/x.so")',
        "does not load: libtree.so.1: cannot open shared object file by x.so",
    ),
]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is run instead of the package cpprb when it is imported."""
    package = tmp_path / "cpprb"
    package.mkdir()
    # Before what is installed.
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return package / "__init__.py"


def with_cpprb_alone(peers: Peers) -> None:
    take_turns([Contestant("cpprb", "tree_rounds", ["cpprb"], is_peer=True)], 1, peers)


@pytest.mark.parametrize(("code", "why"), CASES)
def test_a_script_says_why_its_peer_is_left_out(
    stub: Path, capsys: pytest.CaptureFixture[str], code: str, why: str
) -> None:
    stub.write_text(code)
    peers = Peers((sys.executable,))
    assert peers.run("mp_cpprb", []) is None
    assert peers.missing == {"mp_cpprb": why}
    assert ("is installed for none of" in capsys.readouterr().err) == (why == NOT_INSTALLED)
    # It is not tried again: this would be an error.
    stub.write_text("raise SystemExit(1)")
    assert peers.run("mp_cpprb", []) is None


@pytest.mark.parametrize(("code", "why"), CASES)
def test_a_contestant_says_why_it_does_not_take_part(stub: Path, code: str, why: str) -> None:
    stub.write_text(code)
    peers = Peers((sys.executable,))
    with_cpprb_alone(peers)
    assert peers.missing == {"cpprb": why}


def test_where_one_python_has_it_and_cannot_load_it_that_is_what_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    peers = Peers(("a", "b"))
    peers.miss("cpprb", [NOT_INSTALLED, "does not load: x.so"])
    assert peers.missing == {"cpprb": "does not load: x.so"}
    assert capsys.readouterr().err == "skipped: cpprb does not load: x.so\n"


def test_peers_that_are_not_wanted_are_not_missing(capsys: pytest.CaptureFixture[str]) -> None:
    peers = Peers(())
    with_cpprb_alone(peers)
    assert peers.run("mp_cpprb", []) is None
    assert peers.missing == {}
    assert capsys.readouterr().err == ""


def test_the_page_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(rounds: int, peers: Peers) -> list[object]:
        peers.miss("torchrl", ["does not load: x.so"])
        return []

    monkeypatch.setattr(sum_tree, "figures", figures)
    group = _measure("sum_tree", True, Peers((sys.executable,)))
    assert group.missing == ("torchrl (does not load: x.so)",)
