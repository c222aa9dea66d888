"""What an environment renders that is no picture is said in one line, on film as in a window."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actor.film import Filming
from actor.film_thread import FilmThread
from common.config import Config
from common.environments import probe_spec
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.messages import Weights
from common.networks import build_network
from tests.environments import Painted
from tests.waiting import wait_until

PAINTED = "tests.environments:Painted-v0"
CONFIG = Config(env=PAINTED, hidden_sizes=(4,), video_period=1)


@pytest.mark.parametrize(
    ("rendered", "what"),
    [
        (np.zeros((3, 32, 48), np.uint8), "uint8 (3, 32, 48)"),
        (np.zeros((4, 5, 2), np.uint8), "uint8 (4, 5, 2)"),
        (np.zeros(5, np.uint8), "uint8 (5,)"),
        (np.zeros((0, 5, 3), np.uint8), "uint8 (0, 5, 3)"),
        (np.full((2, 2), "x"), "<U1 (2, 2)"),
        ([[1, 2], [3, 4]], "list"),
        ([], "list"),
        ("+--+", "str"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_said_what_is_rendered_instead(
    monkeypatch: pytest.MonkeyPatch, rendered: Any, what: str
) -> None:
    monkeypatch.setattr(Painted, "render", lambda self: rendered)
    filming = Filming(CONFIG, probe_spec(CONFIG))
    with pytest.raises(EnvironmentFault) as caught:
        filming.play(lambda obs: np.zeros((len(obs), 3), np.float32), 0, lambda *_: None)
    filming.close()
    assert str(caught.value) == (
        f"{PAINTED} renders no pictures, but {what}: must be an array [height, width, 3]"
    )


def test_the_evaluators_film_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Painted, "render", lambda self: np.zeros((3, 32, 48), np.uint8))
    manifest = Manifest("run", CONFIG, probe_spec(CONFIG))
    network = build_network(CONFIG, manifest.spec)
    films = FilmThread(manifest, tmp_path)
    for version in range(2):
        films.offer(Weights(0, version, {k: v.numpy() for k, v in network.state_dict().items()}))
        wait_until(lambda: bool(caplog.records), "the warning")
    films.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"evaluations are not filmed any more: {PAINTED} renders no pictures, but uint8 "
        "(3, 32, 48): must be an array [height, width, 3]"
    )
    assert list(tmp_path.iterdir()) == []
