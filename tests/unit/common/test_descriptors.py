"""As many open files as a process needs, or a line that says how many."""

import resource

import pytest

from common.descriptors import ENOUGH, OWN, allow_descriptors
from common.errors import ConfigError

SOFT, HARD = 256, 100 * ENOUGH


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Soft and hard limit of this process, as it sees them."""
    now = [SOFT, HARD]

    def set_limits(_: int, to: tuple[int, int]) -> None:
        now[:] = to

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return now


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (SOFT, HARD, ENOUGH),
        (SOFT, 1_000, 1_000),
        (SOFT, resource.RLIM_INFINITY, ENOUGH),
        (2 * ENOUGH, HARD, 2 * ENOUGH),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_raised_as_far_as_it_makes_sense(
    limits: list[int], soft: int, hard: int, raised: int
) -> None:
    limits[:] = soft, hard
    allow_descriptors(1_000 - OWN, "a server")
    assert limits == [raised, hard]


def test_too_few_are_refused_with_both_numbers(limits: list[int]) -> None:
    limits[:] = SOFT, 999
    allow_descriptors(999 - OWN, "a server")
    with pytest.raises(ConfigError) as refused:
        allow_descriptors(1_000 - OWN, "a server")
    assert str(refused.value) == (
        "a server needs 1000 open files and connections, and may have 999: raise the limit "
        "(ulimit -n 1000; docker and compose: ulimits nofile)"
    )
