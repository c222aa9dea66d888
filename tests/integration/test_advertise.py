"""A replay server that is reached by another address than it listens at."""

import threading
import time
from typing import Any

import pytest
import zmq

from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError
from common.manifest import Manifest
from common.membership import Membership
from replay_server import server
from replay_server.server import ReplayOptions, run_replay_server
from tests.integration.runs import TINY
from tests.open_head import open_head

HEAD = "inproc://head"
BY_NAME = "tcp://replay.example:5560"


def test_others_hear_where_they_reach_it() -> None:
    config = Config(**TINY)
    manifest = Manifest("run", config, probe_spec(config))
    stop = threading.Event()
    options = ReplayOptions(HEAD, "tcp://127.0.0.1:0", advertise=BY_NAME)
    with (
        zmq.Context() as context,
        open_head(context, HEAD, manifest),
        Membership(context, HEAD, "actor", num_envs=1) as actor,
    ):
        serving = threading.Thread(
            target=run_replay_server, args=(options, context, stop, lambda _: None)
        )
        serving.start()
        try:
            actor.join(time.monotonic, threading.Event())
        finally:
            stop.set()
            serving.join()
        assert actor.replay_endpoint == BY_NAME


@pytest.mark.parametrize("address", ["replay:5560", "tcp://replay", "tcp://replay:0", "http://x:1"])
def test_what_nobody_could_connect_to_is_refused_at_once(address: str) -> None:
    options = ReplayOptions(HEAD, advertise=address)
    with zmq.Context() as context, pytest.raises(ConfigError, match="is no address"):
        run_replay_server(options, context, threading.Event(), lambda _: None)


@pytest.mark.parametrize(
    ("advertise", "method"),
    [("", "delta"), (BY_NAME, "delta+lz4"), ("tcp://localhost:5560", "delta")],
)
def test_batches_are_compressed_for_whoever_reaches_it_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, advertise: str, method: str
) -> None:
    built: list[str] = []

    def refuse(*arguments: Any, **keywords: Any) -> None:
        built.append(keywords["method"])
        raise ConfigError("enough")

    monkeypatch.setattr(server, "build_table", refuse)
    config = Config(**TINY)
    options = ReplayOptions(HEAD, "tcp://127.0.0.1:0", advertise=advertise)
    with (
        zmq.Context() as context,
        open_head(context, HEAD, Manifest("run", config, probe_spec(config))),
        pytest.raises(ConfigError, match="enough"),
    ):
        run_replay_server(options, context, threading.Event(), lambda _: None)
    assert built == [method]
