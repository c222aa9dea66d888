"""Durations come from clocks that nobody can put on: `time.time()` may jump by hours either way."""

import ast

import pytest

from tests.unit.test_import_arrows import MODULES, modules_of

WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
MAY_TELL_THE_TIME = {
    "learner.report": "the moment of a record, for whoever reads it",
    "deploy.dashboard.catalogue": "how old a file is, whose own time is of that clock",
}
"""Modules that ask what time it is, and what for."""


def asks(module: str) -> bool:
    """Whether a module's source names the wall clock."""
    nodes = ast.walk(ast.parse(MODULES[module].read_text()))
    names = (ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute))
    return any(name.endswith(clock) for name in names for clock in WALL_CLOCK)


@pytest.mark.parametrize(
    "module", modules_of("actor", "common", "deploy", "learner", "replay_server")
)
def test_the_wall_clock_is_asked_for_the_time_of_day_alone(module: str) -> None:
    assert asks(module) == (module in MAY_TELL_THE_TIME)
