"""A replay server that is reached by another address than it listens at."""

import threading
from contextlib import closing

import pytest
import zmq

from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError
from common.manifest import Manifest
from learner.control import ControlPlane
from learner.status import LearnerCounters
from replay_server.server import ReplayOptions, run_replay_server
from tests.integration.runs import TINY


def test_the_head_hears_where_others_reach_it() -> None:
    config = Config(**TINY)
    manifest = Manifest("run", config, probe_spec(config))
    stop = threading.Event()
    with (
        zmq.Context() as context,
        closing(
            ControlPlane(context, "inproc://head", manifest, LearnerCounters(), lambda: 0.0)
        ) as control,
    ):
        options = ReplayOptions(
            "inproc://head", "tcp://127.0.0.1:0", advertise="tcp://replay.example:5560"
        )
        server = threading.Thread(
            target=run_replay_server, args=(options, context, stop, lambda _: None)
        )
        server.start()
        try:
            serving = control.replay_server(30.0)
        finally:
            stop.set()
            server.join()
    assert serving is not None
    assert serving.endpoint == "tcp://replay.example:5560"


@pytest.mark.parametrize("address", ["replay:5560", "tcp://replay", "tcp://replay:0", "http://x:1"])
def test_what_nobody_could_connect_to_is_refused_at_once(address: str) -> None:
    options = ReplayOptions("inproc://head", advertise=address)
    with zmq.Context() as context, pytest.raises(ConfigError, match="is no address"):
        run_replay_server(options, context, threading.Event(), lambda _: None)
