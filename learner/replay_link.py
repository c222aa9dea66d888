"""The learner's connection to one replay server."""

import logging

import zmq

from common import transport
from common.errors import ConfigError
from common.manifest import Manifest
from common.messages import Batch, Drawn, Serving
from learner.host_batch import BatchRows
from learner.mapped_replay import Read, map_storage

log = logging.getLogger(__name__)


class ReplayLink:
    """A socket for requests and answers, and the server's storage if this process can map it.

    Raises ConfigError when the configuration insists on shared memory and there is none.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], server: Serving, manifest: Manifest
    ) -> None:
        self._server, self._manifest = server, manifest
        self._mapped = map_storage(server, manifest)
        self.socket, self.watch = transport.connect_watched(context, zmq.DEALER, server.endpoint)
        self.overwritten = 0
        """Transitions that were evicted between being drawn and being read."""

    @property
    def endpoint(self) -> str:
        return self._server.endpoint

    def follow(self, server: Serving) -> None:
        """What the server at this endpoint says of itself now: its storage may be within reach."""
        if server != self._server:
            self._server = server
            if self._mapped is None:
                self._mapped = map_storage(server, self._manifest)

    @property
    def keys_only(self) -> bool:
        """Whether requests should be answered by Drawn."""
        return self._mapped is not None

    def fill(self, host: BatchRows, message: Batch | Drawn) -> Read | None:
        """Bring the transitions of an answer into `host`, all but their weights; None where that
        is not possible any more.

        Raises MalformedMessage when the answer is not what the manifest says.
        """
        if isinstance(message, Batch):
            host.fill(message)
            return Read(message.key, message.probability, message.mean_version, overwritten=0)
        if self._mapped is None:
            return None
        if not self._mapped.holds(message) and not self._map_again(message):
            return None
        read = self._mapped.read(host, message)
        self.overwritten += len(message.key) if read is None else read.overwritten
        return read

    def _map_again(self, message: Drawn) -> bool:
        """Whether there is another file in the place of the old one, and it holds these."""
        log.warning("the replay server has another storage now")
        self._unmap()
        try:
            self._mapped = map_storage(self._server, self._manifest)
        except ConfigError as error:
            # The server's word of where it is now may come behind this.
            log.warning("batches come over the wire for now: %s", error)
        if self._mapped is not None and not self._mapped.holds(message):
            log.warning("it is not the one at %s: batches come over the wire", self._server.storage)
            self._unmap()
        return self._mapped is not None

    def _unmap(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    def close(self) -> None:
        self._unmap()
        self.watch.close()
        self.socket.close()
