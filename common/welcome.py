"""Is what a head says possible? A process checks before it builds anything on it."""

from common import transport
from common.errors import ConfigError, MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import Directive, Welcome
from common.rejections import quoted

MAX_COUNT = 1 << 31
"""Above any number, place or count in a run."""


def check_welcome(welcome: Welcome, role: str) -> Manifest:
    """The manifest that a welcome brings.

    Raises MalformedMessage when no head of a run could have said this.
    """
    counts = ("number", "epoch", "incarnation", "first_env_index", "ladder_size")
    for name in counts:
        _check_count(f"welcome.{name}", getattr(welcome, name))
    if welcome.session < 0:
        raise MalformedMessage("welcome.session is negative", Reason.RANGE)
    _check_endpoints("welcome", welcome)
    _check_endpoint("welcome.weights_endpoint", welcome.weights_endpoint)
    if role == "actor" and not welcome.replay_endpoint:
        raise MalformedMessage("welcome.replay_endpoint is empty", Reason.RANGE)
    try:
        return Manifest.from_plain(welcome.manifest)
    except ConfigError as error:
        raise MalformedMessage(quoted(str(error)), Reason.RANGE) from error


def check_directive(directive: Directive) -> None:
    """Raises MalformedMessage when no head could have said this."""
    if directive.run_state not in ("run", "stop", "rejoin"):
        raise MalformedMessage("directive.run_state is none", Reason.RANGE)
    _check_count("directive.ladder_size", directive.ladder_size)
    _check_endpoints("directive", directive)


def _check_count(name: str, value: int) -> None:
    if not 0 <= value < MAX_COUNT:
        raise MalformedMessage(f"{name} is {value}", Reason.RANGE)


def _check_endpoints(kind: str, message: Welcome | Directive) -> None:
    for name in ("replay_endpoint", "inference_endpoint", "relay_endpoint"):
        if endpoint := getattr(message, name):
            _check_endpoint(f"{kind}.{name}", endpoint)


def _check_endpoint(name: str, endpoint: str) -> None:
    if not transport.is_endpoint(endpoint):
        raise MalformedMessage(f"{name} is no address: {endpoint!r:.80}", Reason.RANGE)
