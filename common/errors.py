"""Everything zapex raises on purpose.

    ZapexError                  one line: what is wrong and what to do; carries an exit code
    ├── ConfigError             a configuration value is unknown or impossible
    ├── EnvironmentFault        an environment cannot be made, is unsupported, raised or hangs
    ├── MemoryLimitReached      an actor has grown beyond actor_memory_limit
    ├── WireError               a message cannot be accepted
    │   ├── MalformedMessage    bytes, shapes, dtypes, ranges or values break the contract
    │   └── SchemaMismatch      the peer speaks another version of the contract
    ├── JoinRefused             the head does not take this process into the run
    ├── HeadUnreachable         nobody answered at the head's address in time
    ├── AddressInUse            another process listens there
    ├── RunDirectoryError       the run directory cannot be used as asked
    ├── CheckpointError         a checkpoint is missing, unreadable, damaged or of another network
    ├── NonFiniteLoss           the loss became NaN or infinite
    └── RoleFailed              a role of a launched run died for good

Command lines print the message alone and exit with `exit_code`; `--debug` adds the traceback.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a message is not accepted: by this it is counted (`common/rejections.py`)."""

    UNDECODABLE = "undecodable"
    """Its bytes are no message: no msgpack, frames that do not fit, data that does not unpack."""
    SCHEMA = "schema"
    """Of another version of the contract."""
    UNKNOWN_KIND = "unknown_kind"
    """Of a kind that does not exist, or that this role does not take."""
    FIELD = "field"
    """A field is missing, unknown, or of another type."""
    DTYPE = "dtype"
    SHAPE = "shape"
    RANGE = "range"
    """A value that is none of those allowed."""
    NON_FINITE = "non_finite"
    """NaN or ∞ among the numbers."""
    SEQUENCE = "sequence"
    """An answer to what was not asked, or an acknowledgement of what was not sent."""
    WINDOW = "window"
    """More unacknowledged inserts than allowed."""
    UNKNOWN_SESSION = "unknown_session"
    """The head does not know this member (any more): it is told to join again."""
    TOO_LARGE = "too_large"
    FLOOD = "flood"
    """More of its kind than can be taken."""
    REFUSED = "refused"
    """Understood, and declined: a join as what the run has no place for."""


class ZapexError(Exception):
    """Base of all errors that zapex explains in one line."""

    exit_code = 3

    def __str__(self) -> str:
        # What a library or an environment said may have several lines.
        return " ".join(super().__str__().split())


class ConfigError(ZapexError):
    exit_code = 2


class EnvironmentFault(ZapexError):
    exit_code = 4


class MemoryLimitReached(ZapexError):
    exit_code = 9


class WireError(ZapexError):
    reason = Reason.REFUSED
    """What it is counted as where the message arrived."""


class MalformedMessage(WireError):
    def __init__(self, text: str, reason: Reason = Reason.UNDECODABLE) -> None:
        super().__init__(text)
        self.reason = reason


class SchemaMismatch(WireError):
    reason = Reason.SCHEMA


class JoinRefused(ZapexError):
    exit_code = 5


class HeadUnreachable(ZapexError):
    exit_code = 5


class AddressInUse(ZapexError):
    exit_code = 6


class RunDirectoryError(ZapexError):
    exit_code = 7


class CheckpointError(ZapexError):
    exit_code = 7


class NonFiniteLoss(ZapexError):
    exit_code = 8


class RoleFailed(ZapexError):
    pass
