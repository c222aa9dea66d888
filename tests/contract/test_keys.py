"""Who is let in, who is not, and what each of the two sides says about it."""

import contextlib
import socket
import threading
from pathlib import Path

import pytest
import zmq

from common import authentication, transport
from common.errors import ConfigError, JoinRefused
from common.handshake import mechanism_of
from common.keys import add_client, revoke_client
from common.messages import Ack
from common.reconnect_watch import ReconnectWatch
from common.security import refused_peers, security_of
from tests.contract.keyed import Processes
from tests.contract.sockets import Socket, Sockets, receive, receive_with_prefix
from tests.waiting import wait_until


@pytest.fixture(params=["tcp", "ipc"])
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    short = tmp_path_factory.mktemp("s")
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{short}/s"


def is_refused(client: Socket, watch: ReconnectWatch) -> str:
    transport.send(client, Ack(0, 0))
    with pytest.raises(JoinRefused) as error:
        wait_until(watch.reconnected, "it is refused")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("who", ["server", "alice", "bob"])
def test_who_is_on_the_list_is_let_in_and_so_is_the_run_itself(
    run: Processes, where: str, who: str
) -> None:
    server, endpoint = run.of("server").bind(zmq.ROUTER, where)
    client, watch = run.of(who).connect_watched(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 1))
    peer, message = receive_with_prefix(server)
    assert message == Ack(0, 1)
    assert transport.send(server, Ack(0, 2), prefix=(peer,))
    assert receive(client) == Ack(0, 2)
    assert not watch.reconnected()
    assert refused_peers(server.context) == 0


@pytest.mark.parametrize(
    ("listening", "who", "words"),
    [
        (
            "server",
            "nobody",
            "{address} wants a key: make one there with python -m deploy keys add",
        ),
        (
            "server",
            "unlisted",
            "{address} does not allow the key of {source}: it was revoked there",
        ),
        (
            "server",
            "foreign",
            "{address} is another server than the one that {source} was made for",
        ),
        ("nobody", "alice", "{address} has no keys, but this process has ({source}): give both"),
        (
            "foreign",
            "server",
            "{address} is another server than the one that {source} was made for",
        ),
    ],
)
def test_who_is_not_let_in_is_told_why_and_nothing_of_it_arrives(
    run: Processes, where: str, listening: str, who: str, words: str
) -> None:
    server, endpoint = run.of(listening).bind(zmq.ROUTER, where)
    intruder = run.of(who)
    client, watch = intruder.connect_watched(zmq.DEALER, endpoint)
    keys = security_of(client.context).keys
    source = "" if keys is None else keys.source
    assert is_refused(client, watch).startswith(words.format(address=endpoint, source=source))
    assert not transport.has_message(server)
    if listening != "nobody":
        wait_until(lambda: refused_peers(server.context), "the refusal is counted")
    # Everybody else still gets in.
    friend = run.of("bob") if listening == "server" else Sockets(security_of(server.context))
    with friend:
        other = friend.connect(zmq.DEALER, endpoint)
        transport.send(other, Ack(0, 7))
        assert receive_with_prefix(server)[1] == Ack(0, 7)


def test_within_a_process_nobody_asks_for_keys(run: Processes) -> None:
    sockets = run.of("alice")
    server, client, peer = sockets.connected("inproc://here")
    transport.send(server, Ack(0, 1), prefix=(peer,))
    assert receive(client) == Ack(0, 1)


def test_with_a_clients_key_nobody_listens_for_a_run(run: Processes) -> None:
    with pytest.raises(
        ConfigError, match="with which nobody can listen for a run: give --keys DIR"
    ):
        run.of("alice").bind(zmq.ROUTER, "tcp://127.0.0.1:0")


@pytest.mark.parametrize(("owner", "who", "enters"), [
    ("alice", "alice", True), ("server", "server", True), ("alice", "bob", False),
    ("alice", "server", False), ("server", "alice", False),
])  # fmt: skip
def test_what_listens_for_this_host_lets_in_who_has_the_same_key_file(
    run: Processes, owner: str, who: str, enters: bool
) -> None:
    server, endpoint = run.of(owner).bind(zmq.ROUTER, "tcp://127.0.0.1:0", for_this_host=True)
    client, watch = run.of(who).connect_watched(zmq.DEALER, endpoint, on_this_host=True)
    if enters:
        transport.send(client, Ack(0, 1))
        assert receive_with_prefix(server)[1] == Ack(0, 1)
    else:
        is_refused(client, watch)


def test_the_runs_list_is_no_list_of_what_listens_for_this_host(run: Processes) -> None:
    # Bob even knows the server's public key, as every client does.
    server, endpoint = run.of("server").bind(zmq.ROUTER, "tcp://127.0.0.1:0", for_this_host=True)
    client, watch = run.of("bob").connect_watched(zmq.DEALER, endpoint)
    assert "does not allow the key" in is_refused(client, watch)
    assert not transport.has_message(server)


# ---------------------------------------------------------------------------- while the run goes on


def test_a_new_name_is_let_in_at_once_without_a_restart(
    run: Processes, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "READ_PERIOD_S", 3_600.0)
    server, endpoint = run.of("server").bind(zmq.ROUTER, "tcp://127.0.0.1:0")
    add_client(directory, "carol", tmp_path / "carol.key")
    client = run.of("carol").connect(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 1))
    assert receive_with_prefix(server)[1] == Ack(0, 1)


def test_a_damaged_entry_of_the_list_is_left_out_and_named(
    run: Processes, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "clients" / "alice.pub").write_text("nonsense")
    (directory / "clients" / "notes.txt").write_text("not of the list")
    server, endpoint = run.of("server").bind(zmq.ROUTER, "tcp://127.0.0.1:0")
    assert "alice.pub is no key file" in caplog.text
    is_refused(*run.of("alice").connect_watched(zmq.DEALER, endpoint))
    client = run.of("bob").connect(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 1))
    assert receive_with_prefix(server)[1] == Ack(0, 1)


def test_a_list_that_cannot_be_read_for_a_while_puts_nobody_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = authentication.AllowList(directory)
    names = set(listed.names.values())
    with monkeypatch.context() as patch:
        patch.setattr(authentication.os, "scandir", _fails)
        assert not listed.read(float("inf"))
    assert set(listed.names.values()) == names == {"alice", "bob"}
    assert "cannot be read: Input/output error" in caplog.text
    revoke_client(directory, "bob")
    assert listed.read(float("inf"))
    assert set(listed.names.values()) == {"alice"}


def test_an_entry_that_cannot_be_read_is_what_it_was_and_does_not_hold_up_the_others(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = authentication.AllowList(directory)
    entry = directory / "clients" / "alice.pub"
    content = entry.read_text()
    entry.unlink()
    entry.mkdir()  # Its mode would not keep root from reading it.
    (directory / "clients" / "nobody.pub").symlink_to(tmp_path / "nowhere")
    add_client(directory, "carol", tmp_path / "carol.key")
    revoke_client(directory, "bob")
    assert listed.read(float("inf"))
    assert set(listed.names.values()) == {"alice", "carol"}
    assert "alice.pub cannot be read: Is a directory" in caplog.text
    entry.rmdir()
    entry.write_text(content)
    assert not listed.read(float("inf"))
    assert set(listed.names.values()) == {"alice", "carol"}


def test_a_key_that_was_replaced_under_its_name_is_revoked(directory: Path, tmp_path: Path) -> None:
    listed = authentication.AllowList(directory)
    revoke_client(directory, "bob")
    add_client(directory, "bob", tmp_path / "second.key")
    assert listed.read(float("inf"))
    assert not listed.read(float("inf"))
    assert set(listed.names.values()) == {"alice", "bob"}


def _fails(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_the_same_refusal_is_logged_once_in_a_while(
    run: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    server, endpoint = run.of("server").bind(zmq.ROUTER, "tcp://127.0.0.1:0")
    for _ in range(3):
        is_refused(*run.of("unlisted").connect_watched(zmq.DEALER, endpoint))
    wait_until(lambda: refused_peers(server.context) == 3, "all three are counted")
    assert caplog.text.count("refused a peer at 127.0.0.1: its key is unknown") == 1


# --------------------------------------------------------------------------------------- greetings


@pytest.mark.parametrize(
    ("greeting", "mechanism"),
    [
        (b"\xff" + 8 * b"\0" + b"\x7f\x03\x01CURVE" + 15 * b"\0" + b"\x01" + 31 * b"\0", "CURVE"),
        (b"\xff" + 8 * b"\0" + b"\x7f\x03\x01NULL" + 48 * b"\0", "NULL"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", ""),
        (b"\xff" + 8 * b"\0" + b"\x7f\x03\x01CUR", ""),
        (b"", ""),
    ],
    ids=["curve", "null", "http", "cut off", "a proxy whose server is away"],
)
def test_how_a_server_greets_tells_what_it_wants(greeting: bytes, mechanism: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(64)

        thread = threading.Thread(target=greet)
        thread.start()
        assert mechanism_of(f"tcp://127.0.0.1:{server.getsockname()[1]}") == mechanism
        thread.join()


def test_where_nobody_is_nobody_greets() -> None:
    assert mechanism_of("tcp://127.0.0.1:9") == ""
    assert mechanism_of("ipc:///no/such/socket") == ""


def test_a_proxy_whose_server_is_away_is_waited_for(run: Processes) -> None:
    """It hangs up on everybody: that says nothing about keys, and its server comes back."""
    attempts = 0
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"tcp://127.0.0.1:{proxy.getsockname()[1]}"
        client, watch = run.of("alice").connect_watched(zmq.DEALER, address)
        proxy.settimeout(0.05)

        def hangs_up() -> bool:
            nonlocal attempts
            with contextlib.suppress(TimeoutError):
                proxy.accept()[0].close()
                attempts += 1
            assert not watch.reconnected()
            return attempts > 8

        wait_until(hangs_up, "eight connections were in vain")
    transport.send(client, Ack(0, 1))

    def serve() -> Socket | None:
        with contextlib.suppress(transport.AddressInUse):
            return run.of("server").bind(zmq.ROUTER, address)[0]
        return None

    server = wait_until(serve, "the server is back")
    assert server is not None
    assert receive_with_prefix(server)[1] == Ack(0, 1)
