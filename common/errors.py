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
    ├── CheckpointError         a checkpoint is missing, damaged or belongs to another network
    ├── NonFiniteLoss           the loss became NaN or infinite
    └── RoleFailed              a role of a launched run died for good

Command lines print the message alone and exit with `exit_code`; `--debug` adds the traceback.
"""


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
    pass


class MalformedMessage(WireError):
    pass


class SchemaMismatch(WireError):
    pass


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
