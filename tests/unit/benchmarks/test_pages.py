"""What benchmarks make of their figures: ratios, tables, verdicts, the page."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.all import BENCHMARKS
from tests.benchmarks.markdown import (
    NOT_RECORDED,
    Circumstances,
    Group,
    page,
    read_groups,
    table,
    write_groups,
)
from tests.benchmarks.report import Figure, number, ratio, report
from tests.benchmarks.targets import TARGETS, Target, verdicts

RATE = Figure("speed.in", 90.0, "items/s", limit=120.0, limit_name="the bare loop")
PEER = Figure("speed.in[other]", 30.0, "items/s")
CIRCUMSTANCES = Circumstances("2026-01-31", "python -m x", ["4 cores", "numpy 2"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (1234567.8, "1,234,568"),
        (100.4, "100"),
        (99.96, "100"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (0.0, "0"),
        (-250.0, "-250"),
    ],
)
def test_numbers_have_three_significant_digits_and_thousands_apart(
    value: float | None, shown: str
) -> None:
    assert number(value) == shown


def test_a_ratio_is_the_value_over_what_it_stands_beside() -> None:
    figure = Figure("speed.out", 90.0, "items/s", limit=120.0, peer=30.0, peer_name="other")
    assert (figure.vs_limit, figure.vs_peer) == (0.75, 3.0)
    assert (ratio(figure.vs_limit), ratio(figure.vs_peer), ratio(None)) == ("0.75×", "3.00×", "")


@pytest.mark.parametrize("beside", [None, 0.0])
def test_beside_nothing_there_is_no_ratio(beside: float | None) -> None:
    figure = Figure("speed.out", 90.0, "items/s", limit=beside, peer=beside)
    assert (figure.vs_limit, figure.vs_peer) == (None, None)


def test_a_line_of_json_tells_all_of_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    report([RATE, PEER], as_json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "name": "speed.in",
        "value": 90.0,
        "unit": "items/s",
        "limit": 120.0,
        "limit_name": "the bare loop",
        "peer": None,
        "peer_name": None,
        "vs_limit": 0.75,
        "vs_peer": None,
    }
    assert (second["name"], second["limit"]) == ("speed.in[other]", None)


def test_a_table_on_a_terminal_shows_names_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    report([RATE, PEER], as_json=False)
    shown = capsys.readouterr().out
    assert "speed.in[other]" in shown
    assert "0.75×" in shown
    assert "the bare loop" in shown


def test_a_markdown_table_aligns_numbers_to_the_right() -> None:
    assert table({"name": False, "value": True}, [["a", "1"], ["b", "2"]]).splitlines() == [
        "| name | value |",
        "|---|--:|",
        "| a | 1 |",
        "| b | 2 |",
    ]


@pytest.mark.parametrize(
    ("target", "found", "reached"),
    [
        # 90 of at most 120, three times the peer's 30.
        (Target("speed.out", "limit", at_least=0.75), 0.75, True),
        (Target("speed.out", "limit", at_least=0.76), 0.75, False),
        (Target("speed.out", "peer", at_least=3.0), 3.0, True),
        (Target("speed.out", "peer", at_most=2.9), 3.0, False),
        (Target("speed.out", "value", at_most=90.0), 90.0, True),
        (Target("speed.out", "value", at_most=89.0), 90.0, False),
    ],
)
def test_a_target_is_reached_or_not(target: Target, found: float, reached: bool) -> None:
    figure = Figure("speed.out", 90.0, "items/s", limit=120.0, peer=30.0, peer_name="other")
    (verdict,) = verdicts([figure, RATE], [target])
    assert (verdict.found, verdict.reached) == (found, reached)


def test_what_was_not_measured_has_no_verdict() -> None:
    """RATE has no peer; nothing is called speed.none."""
    targets = [Target("speed.in", "peer", at_least=1.0), Target("speed.none", "value", at_most=1.0)]
    assert verdicts([RATE], targets) == []


def test_verdicts_say_what_was_required_and_found() -> None:
    targets = [
        Target("speed.in", "limit", at_least=0.8),
        Target("speed.in", "value", at_most=250.0),
    ]
    assert [verdict.cells() for verdict in verdicts([RATE], targets)] == [
        ["speed.in", "the bare loop", "≥ 0.80×", "0.75×", "**no**"],
        ["speed.in", "items/s", "≤ 250", "90", "yes"],
    ]


def test_every_target_names_a_benchmark_and_one_bound() -> None:
    for target in TARGETS:
        assert target.figure.partition(".")[0] in BENCHMARKS
        assert (target.at_least > 0.0) != (target.at_most < float("inf"))
    assert len({(t.figure, t.against) for t in TARGETS}) == len(TARGETS)


def test_the_page_shows_our_figures_then_the_peers_without_empty_columns() -> None:
    shown = page([Group("speed", "How fast.\n\nBy a clock.\n", [RATE, PEER])], CIRCUMSTANCES)
    section = shown[shown.index("## speed") :]
    assert section.splitlines() == [
        "## speed",
        "",
        "How fast.",
        "",
        "By a clock.",
        "",
        "| figure | value | unit | limit | of it | which |",
        "|---|--:|---|--:|--:|---|",
        "| in | 90 | items/s | 120 | 0.75× | the bare loop |",
        "",
        "The peers' own:",
        "",
        "| figure | value | unit |",
        "|---|--:|---|",
        "| in[other] | 30 | items/s |",
    ]


def test_the_page_says_when_and_on_what() -> None:
    lines = page([], CIRCUMSTANCES).splitlines()
    assert "- 2026-01-31, `python -m x`" in lines
    assert "- 4 cores" in lines


def test_a_group_says_which_peers_were_missing_and_what_else_was_different() -> None:
    facts, missing = ("2 cores", "numpy 2"), ("ray (is not installed)", "tree (does not load)")
    group = Group("speed", "How fast.", [RATE], when="Then.", facts=facts, missing=missing)
    shown = page([group], CIRCUMSTANCES)
    assert "\nThen. Not measured: ray (is not installed), tree (does not load). 2 cores.\n" in shown


def test_groups_of_an_earlier_run_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    assert read_groups(path) == {}
    groups = [
        Group("speed", "How fast.", [RATE, PEER], "", "Measured today.", ("4 cores",), ("ray",)),
        Group("size", "How large.", [], "OSError: no room"),
    ]

    write_groups(path, groups)

    assert read_groups(path) == {"speed": groups[0], "size": groups[1]}


def test_a_group_says_when_it_was_measured() -> None:
    shown = page([Group("speed", "How fast.", [RATE], when="Measured today.")], CIRCUMSTANCES)
    assert f"How fast.\n\nMeasured today. {NOT_RECORDED}.\n\n| figure" in shown


def test_a_benchmark_that_failed_says_why() -> None:
    shown = page([Group("speed", "How fast.", [], "OSError: no clock")], CIRCUMSTANCES)
    assert "Not measured: OSError: no clock." in shown


def test_a_benchmark_without_figures_says_so() -> None:
    shown = page([Group("speed", "How fast.", [])], CIRCUMSTANCES)
    assert "Not measured: what it needs is not installed." in shown
