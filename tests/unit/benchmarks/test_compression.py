"""What the page says of compression is that of the wire's own, for the games that are there."""

import pytest

from common.errors import EnvironmentFault
from tests.benchmarks import compression


def test_a_game_has_its_bytes_cost_and_link_by_each_method() -> None:
    pytest.importorskip("minatar")
    found = compression.figures(("minatar-breakout",), rounds=1)
    assert [figure.name.removeprefix("compression.minatar-breakout.") for figure in found] == [
        f"{method}.{what}"
        for method in ("delta", "delta+lz4", "delta+zstd")
        for what in ("bytes", "cost", "pays_below")
    ]
    for nbytes, cost, link in (found[:3], found[3:6], found[6:]):
        assert nbytes.limit == 10 * 10 * 4
        assert 0 < nbytes.value < 100
        saved_bits = 8 * (nbytes.limit - nbytes.value)
        assert link.value == pytest.approx(saved_bits / (cost.value * 1e3))


def test_a_game_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EnvironmentFault("needs a package")

    monkeypatch.setattr(compression, "make_vector", refuse)
    assert compression.figures(("pong",), rounds=1) == []
