"""What runs elsewhere is kept running, and a host that is away does not end the run."""

from collections.abc import Iterator

import pytest

from common.errors import RoleFailed
from deploy.engines.fleet import Ended, Fleet

AWAY = Ended(255, "ssh: connect to host cpu-1 port 22: No route to host")


class Scripted:
    """Ends as the test says."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.vital = name == "replay"
        self.acts = name.startswith("cpu")
        self.did: list[str] = []
        self.end: Ended | None = None

    @property
    def name(self) -> str:
        return self._name

    def start(self, head: str) -> None:
        self.did.append(f"start {head}")
        self.end = None

    def ended(self) -> Ended | None:
        return self.end

    def ask_to_stop(self) -> None:
        self.did.append("asked")
        self.end = Ended(0, "")

    def abandon(self) -> None:
        self.did.append("abandoned")


class Stage:
    """A fleet whose clock is ours."""

    def __init__(self, *names: str, alone: bool = True) -> None:
        self.now_s = 0.0
        self.said: list[str] = []
        self.places = {name: Scripted(name) for name in names}
        self.fleet = Fleet(
            self.places.values(), self.said.append, alone=alone, now_s=lambda: self.now_s
        )
        self.fleet.start("tcp://head:1")

    def ends(self, name: str, ended: Ended) -> None:
        self.places[name].end = ended
        self.fleet.poll()

    def starts(self, name: str) -> int:
        return sum(word.startswith("start") for word in self.places[name].did)

    def later(self, by_s: float) -> None:
        self.now_s += by_s
        self.fleet.poll()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage("cpu-1", "cpu-2")
    yield stage
    stage.fleet.stop()


def test_a_host_that_is_away_is_said_once_and_tried_again_later_each_time(stage: Stage) -> None:
    for tries, delay_s in enumerate((1.0, 2.0, 4.0), 1):
        stage.ends("cpu-1", AWAY)
        stage.later(delay_s - 0.1)
        assert stage.starts("cpu-1") == tries
        stage.later(0.1)
        assert stage.starts("cpu-1") == tries + 1
    (line,) = stage.said
    assert line.startswith("cpu-1: ssh: connect to host cpu-1 port 22: No route to host: trying")
    assert stage.starts("cpu-2") == 1


def test_what_ended_well_has_ended(stage: Stage) -> None:
    stage.ends("cpu-1", Ended(0, ""))
    stage.later(1_000.0)
    assert stage.starts("cpu-1") == 1
    assert stage.said == []


def test_only_when_no_host_can_act_the_run_ends(stage: Stage) -> None:
    stage.ends("cpu-1", Ended(4, "unknown environment 'Pong-v9'"))
    stage.later(1_000.0)
    assert stage.starts("cpu-1") == 1
    assert stage.said == ["cpu-1: unknown environment 'Pong-v9': the run goes on without it"]
    with pytest.raises(RoleFailed, match="cpu-2: ale-py is not installed") as raised:
        stage.ends("cpu-2", Ended(4, "ale-py is not installed"))
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("other", ["inference", "replay"])
def test_what_does_not_act_keeps_no_run_without_actors_going(other: str) -> None:
    stage = Stage("cpu-1", "cpu-2", other)
    stage.ends("cpu-1", Ended(4, "ale-py is not installed"))
    with pytest.raises(RoleFailed, match="cpu-2: ale-py is not installed"):
        stage.ends("cpu-2", Ended(4, "ale-py is not installed"))


def test_what_does_not_act_ends_no_run_whose_actors_work() -> None:
    stage = Stage("cpu-1", "inference")
    stage.ends("inference", Ended(2, "no such device"))
    assert stage.said == ["inference: no such device: the run goes on without it"]
    with pytest.raises(RoleFailed, match="cpu-1: ale-py is not installed"):
        stage.ends("cpu-1", Ended(4, "ale-py is not installed"))


def test_actors_that_come_by_hand_need_no_host_that_acts() -> None:
    stage = Stage("inference")
    stage.ends("inference", Ended(2, "no such device"))
    assert stage.said == ["inference: no such device: the run goes on without it"]


def test_what_cannot_act_is_tried_again_when_all_are_started_anew(stage: Stage) -> None:
    """The head's node was lost: actors may land on others."""
    stage.ends("cpu-1", Ended(4, "ale-py is not installed"))
    stage.fleet.stop()
    stage.fleet.start("tcp://head:2")
    stage.ends("cpu-2", Ended(4, "ale-py is not installed"))
    assert stage.said[-1] == "cpu-2: ale-py is not installed: the run goes on without it"


def test_with_actors_elsewhere_the_run_goes_on_without_any_host() -> None:
    stage = Stage("cpu-1", alone=False)
    stage.ends("cpu-1", Ended(4, "ale-py is not installed"))
    assert stage.said == ["cpu-1: ale-py is not installed: the run goes on without it"]


def test_without_a_replay_server_it_does_not() -> None:
    stage = Stage("cpu-1", "replay")
    with pytest.raises(RoleFailed, match="replay: cannot listen"):
        stage.ends("replay", Ended(2, "cannot listen on tcp://10.0.0.9:5560"))


def test_a_host_may_be_added_and_taken_away(stage: Stage) -> None:
    new = Scripted("cpu-3")
    stage.fleet.add(new)
    assert new.did == ["start tcp://head:1"]
    stage.fleet.drop("cpu-1")
    assert stage.places["cpu-1"].did == ["start tcp://head:1", "asked", "abandoned"]
    stage.later(1_000.0)
    assert stage.starts("cpu-1") == 1


def test_one_that_waits_for_its_next_start_can_be_taken_away(stage: Stage) -> None:
    stage.ends("cpu-1", AWAY)
    stage.fleet.drop("cpu-1")
    stage.later(1_000.0)
    assert stage.starts("cpu-1") == 1


def test_at_the_end_all_are_asked_and_let_go(stage: Stage) -> None:
    stage.ends("cpu-1", AWAY)
    stage.fleet.stop()
    assert stage.places["cpu-1"].did == ["start tcp://head:1", "abandoned"]
    assert stage.places["cpu-2"].did == ["start tcp://head:1", "asked", "abandoned"]
