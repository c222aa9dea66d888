"""Who may import whom (docs: layout). Read from the source, nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("actor", "learner", "replay_server")
PACKAGES = (*ROLES, "common", "deploy", "tests")
PURE = (
    "actor.blocks",
    "actor.exploration",
    "common.n_step",
    "learner.losses",
    "common.rate_limiter",
    "replay_server.sampler",
    "replay_server.sum_tree",
    "replay_server.table",
)
"""Arrays and numbers in, arrays and numbers out."""
WITHOUT_SOCKETS = (*PURE, "learner.head", "common.codec", "common.messages")
"""These have a state, but messages are handed to them and so is the time."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
}


def imports(module: str) -> set[str]:
    """Full names of all that a module imports, inside functions too."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            # `from common import codec` imports a module, `from common.codec import decode` a name.
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES else base)
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


def reachable(module: str) -> set[str]:
    """All that a module imports, and what that imports within this project."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        current = waiting.pop()
        new = imports(current) - seen
        seen |= new
        waiting |= {name for name in new if name in MODULES}
    return seen


def modules_of(*packages: str) -> list[str]:
    return sorted(module for module in MODULES if top(module) in packages)


def test_the_reader_of_imports_sees_every_form() -> None:
    """Or else the tests below would pass for the wrong reason."""
    assert {"common.codec", "common.transport", "zmq", "time"} <= imports("learner.control")
    assert "deploy.in_process" in imports("deploy.launch")  # Inside a function.
    assert "common.codec" in reachable("replay_server.table")  # By way of common.spec.
    assert len(MODULES) > 50


@pytest.mark.parametrize("module", modules_of(*ROLES))
def test_a_role_imports_common_and_itself(module: str) -> None:
    ours = {name for name in imports(module) if top(name) in PACKAGES}
    assert {top(name) for name in ours} <= {"common", top(module)}, sorted(ours)


@pytest.mark.parametrize("module", modules_of("common"))
def test_common_imports_nobody_else(module: str) -> None:
    ours = {name for name in imports(module) if top(name) in PACKAGES}
    assert {top(name) for name in ours} <= {"common"}, sorted(ours)


@pytest.mark.parametrize("module", modules_of("deploy"))
def test_nobody_imports_the_tests(module: str) -> None:
    assert "tests" not in {top(name) for name in imports(module)}


@pytest.mark.parametrize("module", WITHOUT_SOCKETS)
def test_no_socket_and_no_clock_is_within_reach_of_a_pure_file(module: str) -> None:
    forbidden = {"zmq", "socket", "time", "datetime", "threading", "asyncio"}
    assert not forbidden & {top(name) for name in reachable(module)}


@pytest.mark.parametrize("module", PURE)
def test_no_configuration_is_within_reach_of_a_pure_file(module: str) -> None:
    assert not {"common.config", "common.manifest"} & reachable(module)


@pytest.mark.parametrize("module", modules_of(*ROLES, "common", "deploy"))
def test_nothing_is_pickled(module: str) -> None:
    assert not {"pickle", "cloudpickle", "dill", "marshal"} & {
        top(name) for name in imports(module)
    }
