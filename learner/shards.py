"""Batches that are put together from several replay servers, as if they were one table.

Each server tells with every answer how many transitions it holds and what their priorities sum up
to (Σ p^α). From that the learner works out how many rows of the next batch are to come from each
(`learner/shares.py`), and with which probability a transition is drawn from them all together.

How much may be sampled is arithmetic over all servers, so it is done here: each server counts
inserts against the samples that the learner has it count, a whole batch at one server at a time,
the one that is farthest behind. As long as one of them may go on, the learner may; when none may,
none of them makes an actor wait. The first batch is drawn when they hold `min_size_to_sample`
together, or when one of them lets its actors insert no more before.

A server that does not answer is left out until it does: the rows it owes come from the others.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import zmq

from common import transport
from common.config import Config
from common.errors import MalformedMessage, Reason, WireError
from common.manifest import Manifest
from common.messages import Batch, Drawn, Message, Rejected, Serving
from common.rejections import Rejections, quoted
from common.trace import Trace
from learner.batches import Used
from learner.host_batch import HostBatch
from learner.shard import ASK_PERIOD_S, Assembly, Shard, Stretch
from learner.shares import divide
from learner.transfer import Transfer
from learner.update import TrainBatch

PATIENCE_S = 2.0
"""Answers come at once: a server that takes longer is left out."""

log = logging.getLogger(__name__)


class ShardedBatches:
    """For one thread at a time, but for `overwritten`, which others may read.

    Args:
        servers: the replay servers that are there, by number.
        trace: is told what is done for each batch.
        rejections: counts what servers send and is no batch.
        now_s: the monotonic clock.

    Raises ConfigError when the configuration insists on shared memory and there is none.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        servers: Mapping[int, Serving],
        manifest: Manifest,
        device: torch.device,
        trace: Trace,
        rejections: Rejections | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context, self._manifest, self._trace = context, manifest, trace
        self._rejections = rejections or Rejections("learner_rejected_messages_total")
        self._now_s = now_s
        config = manifest.config
        self._config: Config = config
        self._rng = np.random.default_rng([config.seed, 5])
        self.credit = config.prefetch_batches
        """Batches requested, ready, or in training."""
        self._slots = [HostBatch(manifest, device) for _ in range(self.credit)]
        self._transfer = Transfer(self._slots, device)
        self._free = list(range(self.credit))
        self._homes: dict[int, npt.NDArray[np.int64]] = {}
        """By slot: the servers of a batch's rows."""
        self._lost: list[Stretch] = []
        """Rows that somebody else must give."""
        self._shards: dict[int, Shard] = {}
        self._gone: dict[int, tuple[int, int]] = {}
        """Transitions inserted and sampled at servers that are not there any more."""
        self._overwritten = 0
        try:
            self.follow(servers)
        except BaseException:
            self.close()
            raise

    @property
    def overwritten(self) -> int:
        """As `Batches.overwritten`."""
        # A copy: the feed's thread may have another server follow meanwhile.
        shards = list(self._shards.values())
        return self._overwritten + sum(shard.link.overwritten for shard in shards)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """To wait for batches on."""
        return [shard.link.socket for shard in self._shards.values()]

    @property
    def patience_s(self) -> float:
        """How long a wait may last before `receive` is to be called again."""
        return ASK_PERIOD_S if self._free or self._lost else PATIENCE_S / 4

    def follow(self, servers: Mapping[int, Serving]) -> None:
        """These are the servers now."""
        for number, shard in list(self._shards.items()):
            server = servers.get(number)
            if server is None or server.endpoint != shard.link.endpoint:
                self._drop(self._shards.pop(number))
        for number, server in servers.items():
            if number not in self._shards:
                shard = Shard(self._context, number, server, self._manifest)
                self._shards[number] = shard
                shard.ask(None, 0.0, 0, self._now_s())
            self._shards[number].link.follow(server)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.link.close()
        self._transfer.finish()

    def give_back(self, used: Sequence[Used]) -> None:
        """Send priorities home and ask for as many batches."""
        for u in used:
            home = self._homes.pop(u.slot)
            self._free.append(u.slot)
            if not self._config.prioritized:
                continue
            for number in np.unique(home).tolist():
                shard = self._shards.get(number)
                if shard is not None:
                    theirs = home == number
                    shard.keys.append(u.key[theirs])
                    shard.priorities.append(u.priority[theirs])
        if used:
            self._ask_for_batches()

    def receive(self) -> Iterator[TrainBatch]:
        """The batches that are complete, each on its way to the device.

        Raises WireError when a server rejects a request or sends what it must not.
        """
        now_s = self._now_s()
        for shard in self._shards.values():
            self._trace.phase("receiving")
            reconnected = shard.link.watch.reconnected()
            if reconnected or shard.link.watch.broken:
                # What was requested on the old connection will not come.
                self._lost += shard.leave_out()
                shard.asked.clear()
            if reconnected:
                shard.ask(None, 0.0, 0, now_s)
            yield from self._receive_from(shard)
            if shard.answers and shard.silent_s(now_s) > PATIENCE_S:
                log.warning("replay server %d does not answer: left out", shard.number)
                self._lost += shard.leave_out()
        self._trace.phase("priorities")
        self._ask_for_batches()

    def _receive_from(self, shard: Shard) -> Iterator[TrainBatch]:
        while True:
            self._trace.phase("receiving")
            try:
                message = transport.receive(shard.link.socket)
                if message is None:
                    return
                self._trace.phase("gathering")
                batch = self._take(shard, message)
            except WireError as error:
                self._rejections.count(error, self._now_s())
                raise
            if batch is not None:
                yield batch

    # ------------------------------------------------------------------------------------ requests

    def _ask_for_batches(self) -> None:
        now_s = self._now_s()
        lost, self._lost = self._lost, []
        for stretch in lost:
            self._ask_for(stretch, None, now_s)
        while self._free and (creditor := self._creditor()) is not None:
            n = self._config.batch_size
            assembly = Assembly(self._free.pop(), n, n)
            self._ask_for(Stretch(assembly, 0, n), creditor, now_s)
        for shard in self._shards.values():
            if shard.link.watch.broken:
                continue  # What it is asked now would come all at once when it is there again.
            # Nothing is drawn from one that was empty, by which it could tell that it is not.
            waits = self._free or self._lost or not shard.mass > 0.0
            due = waits and not shard.asked and now_s >= shard.next_question_s
            if shard.keys or due:
                shard.ask(None, 0.0, 0, now_s)

    def _creditor(self) -> Shard | None:
        """The server that is to count the next batch; None: there may be none yet."""
        there = [shard for shard in self._shards.values() if shard.is_there]
        # Not while a server makes its actors wait: those of the others may be none.
        enough = sum(shard.inserted for shard in there) >= self._config.min_size_to_sample
        if not enough and all(shard.limiter.can_insert() for shard in there):
            return None
        behind = [shard for shard in there if shard.limiter.can_sample()]
        return max(behind, key=lambda shard: shard.limiter.error, default=None)

    def _ask_for(self, stretch: Stretch, creditor: Shard | None, now_s: float) -> None:
        """Have these rows come from all servers that answer; `creditor` counts a batch."""
        there = [shard for shard in self._shards.values() if shard.is_there]
        mass = np.array([shard.mass for shard in there])
        if not mass.sum() > 0.0:
            self._lost.append(stretch)
            return
        rows, share = divide(stretch.rows, mass, self._rng.random())
        first = stretch.first
        for shard, count, part in zip(there, rows.tolist(), share.tolist(), strict=True):
            counted = self._config.batch_size if shard is creditor else 0
            if count or counted:
                own = Stretch(stretch.assembly, first, count) if count else None
                shard.ask(own, part, counted, now_s)
            first += count

    def _drop(self, shard: Shard) -> None:
        log.info("replay server %d is gone: its experience is left out", shard.number)
        self._lost += shard.leave_out()
        if shard.known:
            self._gone[shard.number] = shard.inserted, shard.sampled
        self._overwritten += shard.link.overwritten
        shard.link.close()

    # ------------------------------------------------------------------------------------- answers

    def _take(self, shard: Shard, message: Message) -> TrainBatch | None:
        if isinstance(message, Rejected):
            raise WireError(
                f"replay server {shard.number} rejected a request: {quoted(message.reason)}"
            )
        if not isinstance(message, (Batch, Drawn)):
            unasked = MalformedMessage(f"a {message.kind} that was not asked for", Reason.SEQUENCE)
            self._rejections.count(unasked, self._now_s())
            return None
        asked = shard.answered(message)
        stretch = None if asked is None else asked.stretch
        if asked is None or stretch is None:
            return None
        assembly, count = stretch.assembly, len(message.key)
        if count != stretch.rows:
            # It came back without its experience.
            self._lost.append(stretch)
            return None
        host = self._slots[assembly.slot].rows(stretch.first, count)
        received = shard.link.fill(host, message)
        if received is None:
            self._lost.append(stretch)
            return None
        cut = slice(stretch.first, stretch.first + count)
        assembly.key[cut] = received.key
        assembly.probability[cut] = received.probability * np.float32(asked.share)
        assembly.server[cut] = shard.number
        assembly.version_sum += received.mean_version * count
        assembly.missing -= count
        return None if assembly.missing else self._complete(assembly)

    def _complete(self, assembly: Assembly) -> TrainBatch:
        slot, shards = assembly.slot, self._shards.values()
        self._slots[slot].weigh(assembly.probability, sum(shard.size for shard in shards))
        self._homes[slot] = assembly.server
        counts = self._gone | {s.number: (s.inserted, s.sampled) for s in shards if s.known}
        self._trace.phase("copying to the device")
        tensors, copied = self._transfer.start(slot)
        return TrainBatch(
            **tensors,
            key=assembly.key,
            table_size=sum(shard.size for shard in shards),
            inserted={number: inserted for number, (inserted, _) in counts.items()},
            sampled=sum(sampled for _, sampled in counts.values()),
            mean_version=assembly.version_sum / assembly.rows,
            slot=slot,
            copied=copied,
        )
