"""Whether a process does its work, for whoever may have to start it anew: Docker, Kubernetes.

`common/exporter.py` answers beside the metrics: /livez, whether its loops still turn, and /readyz,
whether it is in the run as well. A loop says so itself each time around, because a thread beside it
would go on saying so when the loop hangs. `python -m common.health` asks, and ends with 0 or 1.
"""

import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

LIMIT_S = 60.0
"""A loop that has not turned for so long hangs."""
PORT = 9550
"""Where the processes of deploy/docker-compose.yml and deploy/k8s answer."""
ANSWER_S = 5.0
PATHS = ("/livez", "/readyz")

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application (PEP 3333)."""


class Health:
    """What a process knows of itself. Its loops write, the exporter's threads read.

    Args:
        now_s: the monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._turned_s = {"start": now_s()}
        self.in_the_run = False
        """The head took this process in; of the head itself, others can join it."""

    def turned(self, loop: str = "loop") -> None:
        """The loop of this name is alive."""
        self._turned_s[loop] = self._now_s()
        # Once the loops turn it does not matter any more when the process began.
        self._turned_s.pop("start", None)

    def answer(self, path: str) -> tuple[bool, str]:
        """Whether all is well, and a line that says what was seen."""
        now_s = self._now_s()
        ages_s = {loop: now_s - turned_s for loop, turned_s in dict(self._turned_s).items()}
        seen = ", ".join(f"{loop} {age_s:.1f} s ago" for loop, age_s in ages_s.items())
        where = "in the run" if self.in_the_run else "not in the run"
        well = max(ages_s.values()) < LIMIT_S and (self.in_the_run or path != "/readyz")
        return well, f"{where}; {seen}"

    def beside(self, app: App) -> App:
        """`app`, with answers to questions of health."""

        def answering(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            path = environ["PATH_INFO"]
            if path not in PATHS:
                return app(environ, start_response)
            well, seen = self.answer(path)
            status = "200 OK" if well else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{seen}\n".encode()]

        return answering


def main(argv: list[str]) -> int:
    """`python -m common.health [PORT]`: 0 if the process that answers there is alive, else 1."""
    port = int(argv[0]) if argv else PORT
    try:
        # By hand, for http.client takes as long to import as all the rest of this process.
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        print(f"nobody answers at port {port}: {error}")
        return 1
    head, _, seen = answer.decode(errors="replace").partition("\r\n\r\n")
    print(seen.strip())
    return 0 if head.split()[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
