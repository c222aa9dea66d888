"""The inference process: one network for all actors of a host (SEED RL, Espeholt et al. 2019).

Actors that wait for Q-values are answered together: whatever requests are there when the last
batch is done make the next one. Nobody is waited for. While a batch is computed, others come in,
so batches grow by themselves with the load, and an actor that is alone is answered at once.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zmq

from actor.acting_policy import Interrupted, LocalPolicy
from actor.options import MemberOptions
from common import codec, transport
from common.config import Config
from common.device import find_device, use_device
from common.errors import ConfigError, MalformedMessage, NonFiniteLoss, Reason, WireError
from common.manifest import Manifest
from common.membership import Membership
from common.messages import InferenceRequest, Message, QValues, Rejected, Serving
from common.metrics import Telemetry, Values
from common.networks import network_input_shape
from common.process import loopback_id
from common.security import refused_peers
from common.trace import Trace, trace_to

POLL_MS = 20
"""How long one wait for requests lasts before weights are taken and the head is heard again."""
MAX_ROWS = 4_096
"""Observations after which a batch takes no further request: bounds memory, also the device's."""
REQUEST_BYTES = 256 << 20
"""Largest frame of a request."""
QUEUE_MESSAGES = 4
"""Kept for each actor and direction; an actor waits for the answer to its only request."""


def run_inference_server(
    options: MemberOptions,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve until the head says stop or `stop` is set. `ready` is called with the address once
    there are weights.

    Raises ConfigError when the run's actors do not ask for this, or the device is not there.
    """
    socket, endpoint = transport.bind(
        context,
        zmq.ROUTER,
        options.bind,
        for_this_host=True,
        queue_messages=QUEUE_MESSAGES,
        max_message_bytes=REQUEST_BYTES,
    )
    # Replies to a peer that is gone are an error here instead of silently dropped.
    socket.router_mandatory = True
    with (
        contextlib.closing(socket),
        Membership(
            context,
            options.connect,
            "inference",
            preferred_number=options.number,
            metrics=options.metrics,
        ) as membership,
    ):
        manifest = membership.join(time.monotonic, stop, options.join_timeout_s)
        if manifest is not None:
            device = inference_device(manifest.config)
            use_device(device)
            with _own_stream(device):
                trace = trace_to(options.profile, "inference")
                server = _InferenceServer(context, membership, socket, device, stop, trace)
                server.run(endpoint, ready)


def inference_device(config: Config) -> torch.device:
    """Where a run's inference processes compute.

    Raises ConfigError when the device is not there, or nobody would ask for what it computes.
    """
    if config.inference == "actor":
        raise ConfigError(
            "this run's actors compute Q-values by themselves: start it with --inference host"
        )
    device = find_device(config.inference_device, "inference_device")
    if config.inference == "gpu" and device.type == "cpu":
        raise ConfigError(
            "inference = gpu, but there is no GPU here that PyTorch can use: choose host, which "
            "computes on the CPU, or actor"
        )
    return device


def _own_stream(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On a GPU that this process's threads share (learner and inference of a run in threads),
    waiting for values must not mean to wait for the others' work."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class _InferenceServer:
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        socket: zmq.Socket[bytes],
        device: torch.device,
        stop: threading.Event,
        trace: Trace,
    ) -> None:
        self._trace = trace
        self._membership = membership
        self._contacts = 0
        self._socket = socket
        self._stop = stop
        self._batch = InferenceBatch(membership.manifest, pinned=device.type == "cuda")
        self._telemetry = Telemetry(self._values)
        self._policy = LocalPolicy(context, membership, self._goes_on, device)
        self._requests = self._observations = self._batches = 0
        self._endpoint = ""
        """Empty as long as nobody is to be told."""

    def run(self, endpoint: str, ready: Callable[[str], None]) -> None:
        try:
            # Nobody is told of this process before it can answer.
            self._policy.wait_for_weights()
            self._endpoint = endpoint
            ready(endpoint)
            while self._goes_on():
                self._trace.phase("waiting")
                arrived = transport.wait(self._socket, POLL_MS)
                self._trace.phase("new weights")
                self._policy.renew()
                if arrived:
                    self._trace.phase("receiving")
                    asked = self._take_requests()
                    self._trace.phase("inference, sending")
                    self._answer(asked)
        except Interrupted:
            pass
        finally:
            self._trace.close()
            self._policy.close()

    def _goes_on(self) -> bool:
        """A word with the head; false when this process is to end."""
        membership = self._membership
        membership.poll(time.monotonic(), self._telemetry)
        if self._endpoint and membership.contacts != self._contacts:
            self._contacts = membership.contacts
            session = membership.welcome.session
            membership.send(Serving(session, self._endpoint, loopback_id()))
        return not (self._stop.is_set() or membership.stop_requested)

    def _take_requests(self) -> list["_Asked"]:
        """Those that are there, up to about MAX_ROWS observations."""
        asked: list[_Asked] = []
        rows = 0
        while rows < MAX_ROWS and (frames := transport.receive_frames(self._socket)) is not None:
            peer = bytes(frames[0])
            sequence = -1
            try:
                message = codec.decode(frames[1:])
                if not isinstance(message, InferenceRequest):
                    raise MalformedMessage(
                        f"an inference process does not take {message.kind!r}", Reason.UNKNOWN_KIND
                    )
                sequence = message.sequence
                self._batch.check(message.obs)
            except WireError as error:
                self._reject(peer, sequence, error)
            else:
                asked.append(_Asked(peer, sequence, message.obs))
                rows += len(message.obs)
        return asked

    def _answer(self, asked: list["_Asked"]) -> None:
        if not asked:
            return
        try:
            values = self._policy.q_values(self._batch.put([each.obs for each in asked]))
        except NonFiniteLoss as error:
            # One actor's observations must not cost the others their answers.
            if len(asked) == 1:
                fault = MalformedMessage(str(error), Reason.NON_FINITE)
                self._reject(asked[0].peer, asked[0].sequence, fault)
            else:
                for each in asked:
                    self._answer([each])
            return
        self._batches += 1
        self._requests += len(asked)
        self._observations += len(values)
        row = 0
        for each in asked:
            own = values[row : row + len(each.obs)]
            row += len(own)
            self._send(each.peer, QValues(each.sequence, self._policy.version, own))

    def _reject(self, peer: bytes, sequence: int, error: WireError) -> None:
        self._membership.rejections.count(error, time.monotonic())
        self._send(peer, Rejected(-1, sequence, str(error)))

    def _send(self, peer: bytes, message: Message) -> None:
        # An actor that is gone needs no answer; one that came back asks again.
        transport.send(self._socket, message, prefix=(peer,))

    def _values(self) -> Values:
        return {
            "inference_requests_total": self._requests,
            "inference_observations_total": self._observations,
            "inference_batches_total": self._batches,
            **self._membership.rejections.values(),
            "inference_weights_version": self._policy.version,
            "inference_refused_peers_total": refused_peers(self._socket.context),
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that can be answered."""

    peer: bytes
    sequence: int
    obs: npt.NDArray[Any]


class InferenceBatch:
    """The observations of several requests, one after the other in one array.

    Args:
        pinned: whether they are to be copied to a GPU from here.
    """

    def __init__(self, manifest: Manifest, *, pinned: bool) -> None:
        self._shape = network_input_shape(manifest.config, manifest.spec)
        self._dtype = manifest.spec.dtype
        self._pinned = pinned
        self._rows: npt.NDArray[Any] = np.empty((0, *self._shape), self._dtype)

    def check(self, obs: npt.NDArray[Any]) -> None:
        """Raises MalformedMessage when these are not observations of this run."""
        if obs.dtype != self._dtype or obs.shape[1:] != self._shape or obs.size < 1:
            raise MalformedMessage(
                f"observations are {obs.dtype.str} {obs.shape}, expected {self._dtype.str} "
                f"{('N', *self._shape)} with N ≥ 1",
                Reason.DTYPE if obs.dtype != self._dtype else Reason.SHAPE,
            )
        if len(obs) > MAX_ROWS:
            raise MalformedMessage(
                f"{len(obs)} observations in a request, at most {MAX_ROWS}", Reason.TOO_LARGE
            )

    def put(self, parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """All rows of all parts, valid until the next call."""
        rows = sum(map(len, parts))
        if rows > len(self._rows):
            dtype = torch.from_numpy(self._rows).dtype
            grown = torch.empty((rows, *self._shape), dtype=dtype, pin_memory=self._pinned)
            self._rows = grown.numpy()
        return np.concatenate(parts, out=self._rows[:rows])
