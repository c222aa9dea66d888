"""One of several replay servers as the learner knows it, and what it owes."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from common import transport
from common.manifest import Manifest
from common.messages import Batch, Drawn, PartRequest, Serving
from common.rate_limiter import RateLimiter
from learner.replay_link import ReplayLink

ASK_PERIOD_S = 0.005
"""Between two questions to a server how far it is, while the learner may not sample."""


@dataclass(slots=True)
class Assembly:
    """A batch that is being put together in a host buffer."""

    slot: int
    rows: int
    missing: int
    key: npt.NDArray[np.int64] = field(init=False)
    probability: npt.NDArray[np.float32] = field(init=False)
    server: npt.NDArray[np.int64] = field(init=False)
    """Where each row came from."""
    version_sum: float = 0.0

    def __post_init__(self) -> None:
        self.key = np.empty(self.rows, np.int64)
        self.probability = np.empty(self.rows, np.float32)
        self.server = np.empty(self.rows, np.int64)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a batch that have to come from somewhere."""

    assembly: Assembly
    first: int
    rows: int


@dataclass(slots=True)
class Asked:
    """A request that was not answered yet."""

    stretch: Stretch | None
    """None: it only asks how things are, or its rows come from elsewhere by now."""
    share: float
    """Of all servers' mass, when it was asked."""
    counted: int
    asked_s: float


class Shard:
    """One replay server, and what is known of it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        number: int,
        server: Serving,
        manifest: Manifest,
    ) -> None:
        config = manifest.config
        self.number = number
        self.link = ReplayLink(context, server, manifest)
        self._requests = 0
        self.asked: dict[int, Asked] = {}
        """By number, oldest first."""
        self.answers = False
        """Whether it has answered, and has not been silent or away since."""
        self.known = False
        """Whether it has ever answered."""
        self.size = 0
        self.mass = 0.0
        self.inserted = self.sampled = 0
        self.limiter = RateLimiter(
            config.samples_per_insert,
            config.server_min_size_to_sample,
            config.limiter_tolerance,
            config.batch_size,
        )
        self.keys: list[npt.NDArray[np.int64]] = []
        self.priorities: list[npt.NDArray[np.float32]] = []
        """To be sent with the next request."""
        self.next_question_s = 0.0

    @property
    def is_there(self) -> bool:
        """Whether rows may be asked of it: its last words may come after its connection broke."""
        return self.answers and not self.link.watch.broken

    def ask(self, stretch: Stretch | None, share: float, counted: int, now_s: float) -> None:
        """Request rows, send priorities home, or only ask how things are."""
        rows = 0 if stretch is None else stretch.rows
        keys_only = self.link.keys_only
        self._requests = number = self._requests + 1
        if self.keys:
            key, priority = np.concatenate(self.keys), np.concatenate(self.priorities)
            self.keys, self.priorities = [], []
            request = PartRequest(number, rows, counted, key, priority, keys_only)
        else:
            request = PartRequest(number, rows, counted, keys_only=keys_only)
        transport.send(self.link.socket, request)
        self.asked[number] = Asked(stretch, share, counted, now_s)
        self.limiter.samples += counted
        self.next_question_s = now_s + ASK_PERIOD_S

    def answered(self, message: Batch | Drawn) -> Asked | None:
        """Take what an answer tells; returns the request that it belongs to, if that is open."""
        asked = self.asked.get(message.request)
        # A server answers in order: what came before is answered, or was lost with a connection.
        self.asked = {n: a for n, a in self.asked.items() if n > message.request}
        self.answers = self.known = True
        self.size, self.mass = message.table_size, message.mass
        self.inserted, self.sampled = message.inserted, message.sampled
        self.limiter.inserts = message.inserted
        self.limiter.samples = message.sampled + sum(a.counted for a in self.asked.values())
        return asked

    def silent_s(self, now_s: float) -> float:
        """How long the oldest open request has been open."""
        return now_s - next((a.asked_s for a in self.asked.values()), now_s)

    def leave_out(self) -> list[Stretch]:
        """Until it answers again; returns the rows that it owes."""
        self.answers = False
        owed = [a.stretch for a in self.asked.values() if a.stretch is not None]
        for asked in self.asked.values():
            asked.stretch = None
        return owed
