"""Who may see the page, request by request."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from deploy.dashboard.guard import Guard, Receive, Scope, Send, may_enter

TOKEN = "correct1horse2battery3"
LOCAL = "127.0.0.1:8080"
COOKIE = f"other=1; zapex_8080={TOKEN}"


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(
    token: str | None,
    *,
    loopback: bool = False,
    kind: str = "http",
    path: str = "/",
    query: str = "",
    can_refuse: bool = True,
    **headers: str,
) -> tuple[Any, dict[str, str], bytes]:
    """Status (or what the connection was closed with), headers and content of the answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the guard reads nothing")

    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in {"host": LOCAL, **headers}.items()],
        "extensions": {"websocket.http.response": {}} if can_refuse else {},
    }
    guard = Guard(_page, token, loopback=loopback, port=8080)
    asyncio.run(guard(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return sent[0]["code"], {}, b""
    told = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"cookie": COOKIE}, 200),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {TOKEN}"}, 200),
        ({"cookie": "zapex_8080=wrong"}, 401),
        # Of another page on this host.
        ({"cookie": f"zapex_8081={TOKEN}"}, 401),
        ({"cookie": f"zapex_8080={TOKEN}x"}, 401),
        ({"cookie": "zapex_8080="}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer ü"}, 401),
        # With the token, but sent by a page of somebody else.
        ({"cookie": COOKIE, "origin": "http://evil.example"}, 403),
        ({"cookie": COOKIE, "origin": "null"}, 403),
        ({"cookie": COOKIE, "origin": f"http://{LOCAL}"}, 200),
    ],
)
def test_where_a_token_is_wanted_none_goes_without(
    kind: str, headers: dict[str, str], status: int
) -> None:
    found, _, content = ask(TOKEN, kind=kind, **headers)
    assert found == status
    assert content == (b"secret" if status == 200 else b"")


def test_a_server_that_cannot_answer_a_websocket_closes_it() -> None:
    assert ask(TOKEN, kind="websocket", can_refuse=False)[0] == 1008


def test_the_token_in_the_address_is_kept_in_a_cookie_and_leaves_the_address() -> None:
    status, headers, content = ask(TOKEN, query=f"run=a%20b&token={TOKEN}&versus=c")
    assert (status, content) == (303, b"")
    assert headers["location"] == "/?run=a+b&versus=c"
    assert headers["set-cookie"].startswith(f"zapex_8080={TOKEN}; Path=/; HttpOnly; SameSite=Lax")
    assert ask(TOKEN, query="token=wrong")[0] == 401
    # A live connection brings its cookie.
    assert ask(TOKEN, kind="websocket", query=f"token={TOKEN}")[0] == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost:8080", 200),
        ("[::1]:8080", 200),
        # A name that leads here for the sake of reading our answers (DNS rebinding).
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("[broken", 403),
        ("", 403),
    ],
)
def test_on_loopback_only_this_host_s_own_names_are_answered(host: str, status: int) -> None:
    assert ask(None, loopback=True, host=host)[0] == status


def test_elsewhere_any_name_is_answered_and_without_a_token_anybody() -> None:
    assert ask(None, host="box.example:8080")[0] == 200
    assert ask(TOKEN, host="box.example:8080", cookie=COOKIE)[0] == 200


def test_a_token_is_compared_whole() -> None:
    assert may_enter("abc", "abc")
    for offered in ("ab", "abcd", "ABC", "", None, "äbc"):
        assert not may_enter("abc", offered)
