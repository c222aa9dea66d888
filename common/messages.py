"""Every message of the wire, declared once.

A message is a frozen dataclass; its `kind` names it in the header frame. Scalars travel in the
header; arrays follow in the order of declaration, little-endian: small ones together in one frame,
each larger one in its own (`common/codec.py`). Bytes are pinned by golden files in
`tests/contract/`: a change here that alters them raises `SCHEMA_VERSION`, and peers of another
version are refused when they join.

Axes: B blocks in a message, R rows of a block, L rows of a block that may start a transition
(`common/blocks.py`), N transitions of a batch, U frames of each of them, K transitions whose
priorities are updated.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from common.compression import CompressedArray

SCHEMA_VERSION = 6

MAX_INSERT_BYTES = 256 << 20
"""Of an insert's observations, unpacked: a stranger's few bytes must not become many."""
MAX_MESSAGE_BYTES = 1 << 30
"""Of a frame: who gets a larger one closes the connection."""

ACTING = b"acting"
"""Topic of weights to act with."""
EVALUATION = b"evaluation"
"""Topic of weights to evaluate: those whose score may become the best checkpoint."""


@dataclass(frozen=True)
class ArraySpec:
    """What an array frame must look like: its dtype (None: any number) and how many axes it has
    (None: any)."""

    dtype: str | None
    ndim: int | None
    may_be_compressed: bool = False
    """Its reader takes a `common.compression.CompressedArray`, too."""


Float32Vector = Annotated[npt.NDArray[np.float32], ArraySpec("<f4", 1)]
Float32Matrix = Annotated[npt.NDArray[np.float32], ArraySpec("<f4", 2)]
Int32Vector = Annotated[npt.NDArray[np.int32], ArraySpec("<i4", 1)]
Int32Matrix = Annotated[npt.NDArray[np.int32], ArraySpec("<i4", 2)]
Int64Vector = Annotated[npt.NDArray[np.int64], ArraySpec("<i8", 1)]
UInt8Vector = Annotated[npt.NDArray[np.uint8], ArraySpec("|u1", 1)]
UInt8Matrix = Annotated[npt.NDArray[np.uint8], ArraySpec("|u1", 2)]
AnyArray = Annotated[npt.NDArray[Any], ArraySpec(None, None)]
Observations = Annotated[npt.NDArray[Any] | CompressedArray, ArraySpec(None, None, True)]
NamedTensors = dict[str, npt.NDArray[Any]]


def _empty_f4() -> npt.NDArray[np.float32]:
    return np.empty(0, np.float32)


def _empty_i4() -> npt.NDArray[np.int32]:
    return np.empty(0, np.int32)


def _empty_i8() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


class Message:
    """Base of all messages; `kind` is the name in the header."""

    __slots__ = ()
    kind: ClassVar[str]


# ------------------------------------------------------------------ control: a process and the head


@dataclass(frozen=True, slots=True)
class Join(Message):
    """A process asks the head to become part of the run. Answered by Welcome or Refused."""

    kind: ClassVar[str] = "join"
    role: str
    """actor, evaluator, inference, relay or replay_server."""
    host: str
    pid: int
    num_envs: int
    """Sub-environments of an actor; 0 asks for as many as the run's configuration says."""
    preferred_number: int
    """Join under this number if it is free; −1: any."""
    take_over: bool
    """This process was started in place of the one that had `preferred_number` on this host and
    died: do not wait until that one counts as gone. With −1: in place of whichever had its role
    there, for a host that never has two."""
    token: int
    """Random, one for each joining process or thread: by it the head knows one that joins again."""
    machine: str = ""
    """`common.process.loopback_id`, by which actors find the processes that serve their host."""
    metrics_endpoint: str = ""
    """host:port where Prometheus can scrape this process; empty: it cannot."""


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The head takes a process into the run and tells it everything it must know."""

    kind: ClassVar[str] = "welcome"
    session: int
    """Names this membership; never reused within a run."""
    number: int
    """Of this process among its role, from 0."""
    epoch: int
    """Starts of the learner within the run before this one."""
    incarnation: int
    """Processes that had this number in this epoch before. Who comes later, in either sense, draws
    other random numbers."""
    first_env_index: int
    """Where this actor's sub-environments stand on the ε ladder."""
    ladder_size: int
    """Environments on the ε ladder, M."""
    manifest: dict[str, Any]
    """`common.manifest.Manifest` as plain data."""
    weights_endpoint: str
    """Of the head."""
    replay_endpoint: str = ""
    """Where an actor's experience goes; empty for others."""
    inference_endpoint: str = ""
    """Of the inference process on this member's host; empty: there is none."""
    relay_endpoint: str = ""
    """Of the relay on this member's host, from which weights come instead; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """The head will not talk to this peer, and why."""

    kind: ClassVar[str] = "refused"
    reason: str


@dataclass(frozen=True, slots=True)
class Serving(Message):
    """A replay server, an inference process or a relay tells the head where it listens."""

    kind: ClassVar[str] = "serving"
    session: int
    endpoint: str
    machine: str = ""
    """`common.process.machine_id` of a replay server, with whom others may share memory;
    `loopback_id` of those that serve their host alone."""
    storage: str = ""
    """A replay server's file of the stored blocks; empty: none that others could map."""


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """A member is alive; its telemetry rides along. One a second for each process."""

    kind: ClassVar[str] = "heartbeat"
    session: int
    values: dict[str, float]
    """Cumulative counters and current gauges by name (`common/metric_table.py`)."""
    episode_return: Float32Vector = field(default_factory=_empty_f4)
    """Raw returns (before any reward change) of the episodes that ended since the last one."""
    episode_length: Int32Vector = field(default_factory=_empty_i4)
    """Their lengths in environment steps."""
    episode_env: Int32Vector = field(default_factory=_empty_i4)
    """Which of the actor's environments each was in, from 0."""
    histograms: NamedTensors = field(default_factory=dict)
    """`common.metrics.Histogram.read` by name."""


@dataclass(frozen=True, slots=True)
class Directive(Message):
    """What the head wants of a member: sent at once when the run stops or one that serves comes or
    goes; in answer to a heartbeat after any other change, or a few seconds."""

    kind: ClassVar[str] = "directive"
    session: int
    run_state: str
    """run, stop, or rejoin (the head does not know this session)."""
    ladder_size: int
    replay_endpoint: str = ""
    inference_endpoint: str = ""
    """Both as in Welcome; experience stays where it goes while there is no replay server."""
    relay_endpoint: str = ""
    """As in Welcome."""


@dataclass(frozen=True, slots=True)
class Leave(Message):
    """A member goes, and why."""

    kind: ClassVar[str] = "leave"
    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class EvalResult(Message):
    """Greedy episodes of one weights version."""

    kind: ClassVar[str] = "eval_result"
    session: int
    epoch: int
    version: int
    wall_s: float
    """Time the evaluation took, in seconds."""
    episode_return: Float32Vector
    episode_length: Int32Vector


@dataclass(frozen=True, slots=True)
class StatusRequest(Message):
    """Anyone asks the head how the run goes. Answered by Status."""

    kind: ClassVar[str] = "status_request"


@dataclass(frozen=True, slots=True)
class Status(Message):
    """`learner.status.RunStatus` as plain data."""

    kind: ClassVar[str] = "status"
    status: dict[str, Any]


# ------------------------------------------------------------------- weights: the head to everybody


@dataclass(frozen=True, slots=True)
class Weights(Message):
    """One version of the Q-network. Newest (epoch, version) wins."""

    kind: ClassVar[str] = "weights"
    epoch: int
    """Counts the learner's starts within a run."""
    version: int
    """Learner updates when these weights were taken; monotonic within an epoch."""
    tensors: NamedTensors
    """By the network's own names: real numbers in float32 or float16, all else in its own dtype."""


# -------------------------------------------------- inference: actors and a process of their host


@dataclass(frozen=True, slots=True)
class InferenceRequest(Message):
    """An actor that waits asks for the Q-values of its observations. Answered by QValues, or by
    Rejected."""

    kind: ClassVar[str] = "inference_request"
    sequence: int
    """Counts this actor's requests; the answer repeats it."""
    obs: AnyArray
    """[N, *obs_shape] in the manifest's dtype, or stacks [N, S, *obs_shape]."""


@dataclass(frozen=True, slots=True)
class QValues(Message):
    """The answer to an InferenceRequest."""

    kind: ClassVar[str] = "q_values"
    sequence: int
    version: int
    """Of the weights that gave these values."""
    q_values: Float32Matrix
    """[N, A]"""


# ---------------------------------------------------- experience: actors, replay server and learner


@dataclass(frozen=True, slots=True)
class Insert(Message):
    """Blocks of experience from one actor. Answered by Ack once stored and counted."""

    kind: ClassVar[str] = "insert"
    session: int
    sequence: int
    """Counts this session's inserts to this server; a number seen before is acknowledged, not
    stored."""
    weights_version: int
    """The version that acted in the newest row."""
    obs: Observations
    """[B, R, *obs_shape] in the manifest's dtype."""
    action: Int32Matrix
    """[B, R], taken at each row."""
    reward: Float32Matrix
    """[B, R], what followed that action: within ± `common.blocks.MAX_REWARD`."""
    row_kind: UInt8Matrix
    """[B, R], `common.blocks.RowKind` flags."""
    priority: Float32Matrix
    """[B, L], |δ| of each row that may start a transition."""
    oldest: int = 0
    """The lowest sequence number that was not acknowledged when this was sent: what lies between it
    and this one comes first, or comes again."""
    connection: int = 0
    """Counts this session's connections: acknowledgements go to the newest, though what came over
    an older one may be read last."""


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """An insert, and all of its session before it, are stored. Also the actor's credit for as many
    others."""

    kind: ClassVar[str] = "ack"
    session: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Rejected(Message):
    """A message was not accepted; nothing of it is stored."""

    kind: ClassVar[str] = "rejected"
    session: int
    sequence: int
    """Of the insert or inference request that is rejected; −1 for other messages."""
    reason: str


@dataclass(frozen=True, slots=True)
class SampleRequest(Message):
    """The learner asks for `batches` more, and returns priorities of earlier ones on the way."""

    kind: ClassVar[str] = "sample_request"
    batches: int
    key: Int64Vector = field(default_factory=_empty_i8)
    """[K], as received in a Batch."""
    priority: Float32Vector = field(default_factory=_empty_f4)
    """[K], |δ|, raw: the exponent α is applied by the sampler alone."""
    keys_only: bool = False
    """Answer with Drawn: the learner reads the transitions from the storage itself."""


@dataclass(frozen=True, slots=True)
class PartRequest(Message):
    """The learner of a run with several replay servers asks one of them for its part of a batch.
    Answered at once, by a Batch, or by Drawn: how much may be sampled is the learner's business."""

    kind: ClassVar[str] = "part_request"
    number: int
    """Counts the learner's requests to this server from 1; the answer repeats it."""
    rows: int
    """Transitions to draw. The answer has none when the server holds none."""
    counted: int
    """Samples that this server's rate limiter is to count: over all servers, a batch's size."""
    key: Int64Vector = field(default_factory=_empty_i8)
    priority: Float32Vector = field(default_factory=_empty_f4)
    """Both [K], as in SampleRequest."""
    keys_only: bool = False
    """As in SampleRequest."""


@dataclass(frozen=True, slots=True)
class Batch(Message):
    """N sampled n-step transitions."""

    kind: ClassVar[str] = "batch"
    table_size: int
    """Transitions that could have been sampled."""
    inserted: int
    """Transitions inserted since the run began."""
    sampled: int
    """Transitions sampled since the run began, this batch included."""
    mass: float
    """Σ p^α over the table: what `probability` is relative to. Without prioritisation the size."""
    request: int
    """`number` of the PartRequest that this answers; 0: of none."""
    mean_version: float
    """Mean weights version that acted in these transitions, from which their age is counted."""
    frames: Observations
    """[N, U, *obs_shape], the rows that the observations are stacked from
    (`common/transitions.py`)."""
    shift: UInt8Vector
    """Where among its frames a transition's next observation begins; its observation is at 0."""
    action: Int32Vector
    n_step_return: Float32Vector
    """Σ_k γ^k r_{t+k} up to the bootstrap."""
    discount: Float32Vector
    """γ^m at the bootstrap, 0 where the episode terminated before."""
    probability: Float32Vector
    """With which each transition was drawn."""
    key: Int64Vector
    """Block number × L + row, rows counted from the first that may start a transition."""


@dataclass(frozen=True, slots=True)
class Drawn(Message):
    """Sampled transitions by key, for a learner that maps the storage; fields as in Batch, counters
    as after all of them. Whole batches, one behind the other, or a part of one."""

    kind: ClassVar[str] = "drawn"
    instance: int
    """Counter `INSTANCE` of the blocks (`common/block_columns.py`) that the keys belong to."""
    table_size: int
    inserted: int
    sampled: int
    mass: float
    request: int
    probability: Float32Vector
    key: Int64Vector
