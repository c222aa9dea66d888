"""`python -m deploy status HEAD`: how does a run go, on whichever machine it is?"""

import contextlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from common.errors import HeadUnreachable
from common.security import open_security
from deploy.live_view import LiveView
from deploy.status_client import Plain, StatusClient

PATIENCE_S = 10.0
"""A head that is silent for so long is gone."""
LOOK_S = 0.05


@dataclass(kw_only=True)
class Watch:
    """Show a run that goes on, until it ends or Ctrl-C. The run does not notice."""

    head: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="HEAD")]
    """The head's address, as the launcher printed it: tcp://HOST:PORT."""
    keys: Path | None = None
    """Your key file, for a run that wants one. None: what ZAPEX_KEYS or ZAPEX_KEY says, or none."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one line of JSON, how it goes now, and end."""
    debug: bool = False
    """Print a traceback with an error."""


def status(argv: list[str]) -> int:
    """Returns the exit code. Raises HeadUnreachable when nobody answers there."""
    options = tyro.cli(Watch, args=argv, prog="python -m deploy status")
    security = open_security(options.keys)
    with contextlib.closing(StatusClient(options.head, security=security)) as client:
        first = _next(client)
        if first is None:
            if client.refusal:
                raise HeadUnreachable(f"no status from {options.head}: {client.refusal}")
            raise HeadUnreachable(
                f"no status from {options.head} within {PATIENCE_S:.0f} s: is the run over, or is "
                "this not its head's address?"
            )
        if options.as_json:
            print(json.dumps(finite(first), allow_nan=False))
            return 0
        with LiveView(f"{first['env']}, run {first['run_id']}: {options.head}") as view:
            shown: Plain | None = first
            while shown is not None:
                view.update(shown)
                ended = shown["learner"]["phase"] in ("done", "failed")
                shown = None if ended else _next(client)
            view.say("the run has ended" if ended else _silence(options.head))
    return 0 if ended else HeadUnreachable.exit_code


def _silence(head: str) -> str:
    return f"{head} is silent: the run has ended, or its host cannot be reached"


def _next(client: StatusClient) -> Plain | None:
    """The next status; None: the head is silent."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        latest = client.latest()
        if latest is not None:
            return latest
        if client.refusal:
            return None
        time.sleep(LOOK_S)
    return None


def finite(value: Any) -> Any:
    """The same with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
