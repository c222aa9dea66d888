"""A variant that fails is left out, and does not go unnoticed."""

import pytest

from tests.benchmarks import contestants, learner_update
from tests.benchmarks.contestants import Contestant, Round, take_turns
from tests.benchmarks.peers import PeerError, Peers


def test_a_variant_that_cannot_start_leaves_the_others_their_values(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="not measured: mlp_8: no such"):
        learner_update.run(("mlp_8",), ("no such",), rounds=1, device="cpu", json=True)
    out, err = capfd.readouterr()
    assert '"name": "learner_update.mlp_8: eager"' in out
    assert "failed, and left out: mlp_8: no such: exit status 1 from: " in err


TWO = [Contestant("one", ""), Contestant("other", "")]


@pytest.fixture
def other_fails_in_its_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(4))

    def next_round(_: object) -> Round:
        number = next(rounds)
        if number == 1:
            raise PeerError("exit status 1 from: it")
        return {"wall": [float(number)]}

    monkeypatch.setattr(contestants, "_start", lambda *_: "a process")
    monkeypatch.setattr(contestants, "_next_round", next_round)


@pytest.mark.usefixtures("other_fails_in_its_first_round")
def test_a_variant_that_fails_in_a_round_leaves_the_others_theirs() -> None:
    peers = Peers(())
    assert take_turns(TWO, 3, peers, go_on=True) == {"one": {"wall": [0.0, 2.0, 3.0]}}
    assert (peers.failed, peers.missing) == (["other"], {"other": "failed"})


@pytest.mark.usefixtures("other_fails_in_its_first_round")
def test_elsewhere_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(PeerError, match="exit status 1 from: it"):
        take_turns(TWO, 3, Peers(()))
