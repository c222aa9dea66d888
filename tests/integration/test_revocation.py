"""A client is revoked while it is connected: it is cut off, and nobody else loses anything."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zmq

from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from actor.weights import WeightsSubscription
from common import transport
from common.errors import JoinRefused
from common.keys import add_client, make_directory, open_keys, revoke_client
from common.membership import Membership
from common.messages import ACTING, Insert
from common.rejections import Rejections
from common.security import SecureContext, Security
from replay_server.server import serve
from replay_server.table import Table
from tests.experience import insert, steps
from tests.head_with_peers import MANIFEST
from tests.integration.runs import free_ports, until
from tests.open_head import open_head
from tests.unit.replay_server.tables import make_table
from tests.unit.replay_server.test_server import NoHead

REFUSED = Rejections("actor_rejected_messages_total")
HONEST, REVOKED = 1, 2
"""Sessions."""
WINDOW = 8
ADVERTISED = "tcp://replay.example:5560"
"""What the head is told of the replay server: not where it listens, as behind a service's name."""


class Server:
    """A replay server and a head with keys; `table` has room for all that is inserted."""

    def __init__(self, directory: Path, ends: contextlib.ExitStack) -> None:
        self.context = ends.enter_context(SecureContext(Security(open_keys(directory, {}))))
        self.table: Table = make_table(slots=4_096, insert_window=WINDOW)
        socket, self.replay = transport.bind(self.context, zmq.ROUTER, "tcp://127.0.0.1:0")
        stop = threading.Event()
        nobody = cast(Membership, NoHead())
        thread = threading.Thread(target=serve, args=(socket, ADVERTISED, self.table, nobody, stop))
        thread.start()
        ends.callback(socket.close)
        ends.callback(thread.join)
        ends.callback(stop.set)
        port = free_ports(2)
        head = f"tcp://127.0.0.1:{port}"
        self.control = ends.enter_context(open_head(self.context, head, MANIFEST))
        self.weights = f"tcp://127.0.0.1:{port + 1}"

    def publish(self, version: int) -> None:
        self.control.publish(ACTING, 0, version, {"w": np.full(3, version, np.float32)})

    def stored(self, session: int) -> list[int]:
        """Sequence numbers of the session's inserts that are in the storage, each of one block."""
        storage = self.table.storage
        there = (storage.number > 0) & (storage.session == session)
        return sorted(storage.sequence[there].tolist())


class Client:
    """An actor with a key of its own: its inserts, and its weights."""

    def __init__(self, server: Server, key: Path, session: int, ends: contextlib.ExitStack) -> None:
        self.context = ends.enter_context(SecureContext(Security(open_keys(key, {}))))
        self.replay = ReplayClient(
            self.context,
            server.replay,
            session,
            WINDOW,
            REFUSED,
        )
        ends.callback(self.replay.close)
        self.weights = WeightsSubscription(
            self.context,
            server.weights,
            ACTING,
            REFUSED,
        )
        ends.callback(self.weights.close)
        self._session, self.sent = session, 0

    def insert(self) -> None:
        """One more, once there is room for it."""
        until(self._has_room, "room in the window")
        example: Insert = insert(steps(), session=self._session, sequence=self.sent)
        columns = (example.obs, example.action, example.reward, example.row_kind, example.priority)
        self.replay.insert(Blocks(*cast(Any, columns)), weights_version=0)
        self.sent += 1

    def _has_room(self) -> bool:
        self.replay.poll()
        return not self.replay.window_is_full

    def all_acknowledged(self) -> bool:
        self.replay.poll()
        return self.replay.unacknowledged == 0

    def has_weights(self, version: int) -> bool:
        latest = self.weights.latest()
        return latest is not None and latest.version == version


@pytest.fixture
def ends() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_revoked_actor_is_cut_off_and_an_honest_one_loses_nothing(
    tmp_path: Path, ends: contextlib.ExitStack
) -> None:
    keys = tmp_path / "keys"
    make_directory(keys)
    for name in ("honest", "revoked"):
        add_client(keys, name, tmp_path / f"{name}.key")
    server = Server(keys, ends)
    honest = Client(server, tmp_path / "honest.key", HONEST, ends)
    revoked = Client(server, tmp_path / "revoked.key", REVOKED, ends)
    server.publish(1)
    for client in (honest, revoked):
        for _ in range(20):
            client.insert()
        until(client.all_acknowledged, "everything is stored")
        until(functools.partial(client.has_weights, 1), "the weights are there")

    revoke_client(keys, "revoked")
    # It goes on as if nothing had happened, until the server hangs up on it.
    with pytest.raises(JoinRefused, match=r"does not allow the key of .*revoked\.key"):
        _insert_for_ever(honest, revoked)
    for _ in range(100):
        honest.insert()
    until(honest.all_acknowledged, "everything is stored")
    # Each insert of the one is there, once. Of the other's, the first.
    assert server.stored(HONEST) == list(range(honest.sent))
    before = server.stored(REVOKED)
    assert before == list(range(len(before)))
    assert 20 <= len(before) <= revoked.sent

    # The weights go to the one and not to the other, who may ask as often as it likes.
    server.publish(2)
    until(lambda: honest.has_weights(2), "the new weights are there")
    revoked.weights.pause()
    revoked.weights.resume()
    again = WeightsSubscription(revoked.context, server.weights, ACTING, REFUSED)
    ends.callback(again.close)
    knocking = transport.connect(revoked.context, zmq.DEALER, server.replay)
    ends.callback(knocking.close)
    refused = server.context.refused_peers
    transport.send(knocking, insert(steps(), session=REVOKED, sequence=revoked.sent))
    until(lambda: server.context.refused_peers > refused + 1, "it knocks in vain, at both doors")
    server.publish(3)
    until(lambda: honest.has_weights(3), "the newest weights are there")
    assert revoked.weights.latest() is None
    assert again.latest() is None
    assert server.stored(REVOKED) == before


def _insert_for_ever(*clients: Client) -> None:
    while True:
        for client in clients:
            client.insert()
