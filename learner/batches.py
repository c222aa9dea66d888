"""Batches from the run's only replay server; priorities and requests on their way there.

It keeps the credit at its full size: at any time `prefetch_batches` batches are requested, ready,
or in training; a request for others carries the priorities of those that were used up.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import zmq

from common import transport
from common.errors import MalformedMessage, Reason, WireError
from common.manifest import Manifest
from common.messages import Batch, Drawn, Message, Rejected, SampleRequest, Serving
from common.rejections import Rejections, quoted
from common.trace import Trace
from learner.host_batch import HostBatch
from learner.replay_link import ReplayLink
from learner.transfer import Transfer
from learner.update import TrainBatch


@dataclass(frozen=True, slots=True)
class Used:
    """A batch that was trained on: its buffer is free, its priorities go home."""

    slot: int
    key: npt.NDArray[np.int64]
    priority: npt.NDArray[np.float32]


class Batches:
    """For one thread at a time, but for `overwritten`, which others may read.

    Args:
        trace: is told what is done for each batch.
        rejections: counts what is not accepted of the server.

    Raises ConfigError when the configuration insists on shared memory and there is none.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        server: Serving,
        manifest: Manifest,
        device: torch.device,
        trace: Trace,
        rejections: Rejections | None = None,
    ) -> None:
        self._rejections = rejections or Rejections("learner_rejected_messages_total")
        self._manifest, self._trace = manifest, trace
        self._context = context
        self._link = ReplayLink(context, server, manifest)
        self._overwritten = 0
        self.credit = credit = manifest.config.prefetch_batches
        """Batches requested, ready, or in training."""
        self._slots = [HostBatch(manifest, device) for _ in range(credit)]
        self._transfer = Transfer(self._slots, device)
        self._free = list(range(credit))
        self._requested = 0
        self._request(credit)

    @property
    def overwritten(self) -> int:
        """Transitions that were evicted between being drawn and being read: another of their batch
        stood in for each, or where none was left, the batch was drawn again."""
        return self._overwritten + self._link.overwritten

    patience_s = 1.0
    """How long a wait may last before `receive` is to be called again."""

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """To wait for batches on."""
        return [self._link.socket]

    def follow(self, servers: Mapping[int, Serving]) -> None:
        """These are the servers now: there may be none for a while, or another."""
        server = next(iter(servers.values()), None)
        if server is None:
            return
        if server.endpoint == self._link.endpoint:
            self._link.follow(server)
        else:
            self._overwritten += self._link.overwritten
            self._link.close()
            self._link = ReplayLink(self._context, server, self._manifest)
            self._request_again()

    def close(self) -> None:
        self._link.close()
        self._transfer.finish()

    def give_back(self, used: Sequence[Used]) -> None:
        """Send priorities home and ask for as many batches."""
        if not used:
            return
        self._free += [u.slot for u in used]
        key = priority = None
        if self._manifest.config.prioritized:
            key = np.concatenate([u.key for u in used])
            priority = np.concatenate([u.priority for u in used])
        self._request(len(used), key, priority)

    def receive(self) -> Iterator[TrainBatch]:
        """The batches that have come, each on its way to the device.

        Raises WireError when the server rejects a request or sends what it must not.
        """
        if self._link.watch.reconnected():
            self._request_again()
        while True:
            self._trace.phase("receiving")
            try:
                message = transport.receive(self._link.socket)
                if message is None:
                    return
                batches = self._take(message)
            except WireError as error:
                self._rejections.count(error, time.monotonic())
                raise
            yield from batches

    def _request_again(self) -> None:
        """What was requested on the old connection will not come."""
        lost, self._requested = self._requested, 0
        self._request(lost)

    def _request(
        self,
        batches: int,
        key: npt.NDArray[np.int64] | None = None,
        priority: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self._requested += batches
        keys_only = self._link.keys_only
        if key is None or priority is None:
            request = SampleRequest(batches, keys_only=keys_only)
        else:
            request = SampleRequest(batches, key, priority, keys_only)
        transport.send(self._link.socket, request)

    def _take(self, message: Message) -> list[TrainBatch]:
        if isinstance(message, Rejected):
            raise WireError(f"the replay server rejected a request: {quoted(message.reason)}")
        if isinstance(message, Batch):
            answers: Sequence[Batch | Drawn] = (message,)
        elif isinstance(message, Drawn):
            answers = _split(message, self._manifest.config.batch_size)
        else:
            answers = ()
        if not 0 < len(answers) <= len(self._free):
            unasked = MalformedMessage(f"a {message.kind} that was not asked for", Reason.SEQUENCE)
            self._rejections.count(unasked, time.monotonic())
            # After a new connection an answer of the old one may have taken the place of one.
            answers = answers[: len(self._free)]
        self._requested -= len(answers)
        batches = [self._fill(answer) for answer in answers]
        lost = batches.count(None)
        if lost:
            self._request(lost)
        return [batch for batch in batches if batch is not None]

    def _fill(self, answer: Batch | Drawn) -> TrainBatch | None:
        """The batch; None where its transitions are not there any more."""
        self._trace.phase("gathering")
        slot = self._free.pop()
        host = self._slots[slot]
        received = self._link.fill(host, answer)
        if received is None:
            self._free.append(slot)
            return None
        host.weigh(received.probability, answer.table_size)
        self._trace.phase("copying to the device")
        tensors, copied = self._transfer.start(slot)
        return TrainBatch(
            **tensors,
            key=received.key,
            table_size=answer.table_size,
            inserted={0: answer.inserted},
            sampled=answer.sampled,
            mean_version=received.mean_version,
            slot=slot,
            copied=copied,
        )


def _split(drawn: Drawn, batch_size: int) -> Sequence[Drawn]:
    """The batches of a message; one that is no whole number of them stays as it is."""
    count = len(drawn.key) // batch_size
    if count * batch_size != len(drawn.key) or count < 2:
        return (drawn,)
    batches = []
    for first in range(0, len(drawn.key), batch_size):
        end = first + batch_size
        key, probability = drawn.key[first:end], drawn.probability[first:end]
        # As if each had come by itself.
        sampled = drawn.sampled - (len(drawn.key) - end)
        batches.append(replace(drawn, key=key, probability=probability, sampled=sampled))
    return batches
