"""Who may see the page: asked of every request, those of the live connection too.

On loopback the page is for whoever works on this host, but not for the pages of others in their
browser: a name that was made to lead here (DNS rebinding) and a foreign origin are refused. From
elsewhere a token is wanted. It is given once, as `?token=`, and kept in a cookie.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from common import transport

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE_DAYS = 30


def may_enter(token: str, offered: str | None) -> bool:
    """Whether that is the token; how long the answer takes tells nothing of it."""
    return hmac.compare_digest(token.encode(), (offered or "").encode())


class Guard:
    """An ASGI application around another one.

    Args:
        token: that visitors must have; None: they need none.
        loopback: the page is served to this host alone.
        port: where it is served; cookies are shared by all ports of a host.
    """

    def __init__(self, app: App, token: str | None, *, loopback: bool, port: int) -> None:
        self.app = app
        self._token, self._loopback = token, loopback
        self._cookie = f"zapex_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if not self._is_from_here(headers):
            await _refuse(scope, send, 403)
        elif self._token is None or may_enter(self._token, self._offered(headers)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and may_enter(self._token, _parameter(scope, "token")):
            await self._welcome(scope, send)
        else:
            await _refuse(scope, send, 401)

    def _is_from_here(self, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        if self._loopback and not transport.is_local(f"tcp://{host}"):
            return False
        origin = headers.get("origin")
        return origin is None or origin.partition("://")[2] == host

    def _offered(self, headers: dict[str, str]) -> str | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return bearer.strip()
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return None
        return None if kept is None else kept.value

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Keep the token in a cookie, and out of the address line."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        cookie = (
            f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax; "
            f"Max-Age={COOKIE_DAYS * 86_400}"
        )
        headers = {"location": scope["path"] + (f"?{rest}" if rest else ""), "set-cookie": cookie}
        await _answer(send, "http", 303, headers)


def _parameter(scope: Scope, name: str) -> str | None:
    query = parse_qsl(scope["query_string"].decode("latin-1"))
    return next((value for key, value in query if key == name), None)


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if scope["type"] == "http":
        await _answer(send, "http", status, headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await _answer(send, "websocket.http", status, headers)
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _answer(send: Send, protocol: str, status: int, headers: dict[str, str]) -> None:
    """Without content."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", b"0"))
    await send({"type": f"{protocol}.response.start", "status": status, "headers": pairs})
    await send({"type": f"{protocol}.response.body", "body": b""})
