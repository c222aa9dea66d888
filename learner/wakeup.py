"""Ends another thread's wait for its sockets."""

import contextlib

import zmq

from common import transport


class Wakeup:
    """Made and closed by the owner; one thread waits for `woken`, the other calls `signal`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        address = f"inproc://wakeup-{id(self)}"
        self._signals = context.socket(zmq.PAIR)
        self._signals.bind(address)
        self.woken = context.socket(zmq.PAIR)
        """Readable after a signal; for the waiting thread's poller."""
        self.woken.connect(address)

    def signal(self) -> None:
        """Wake the waiting thread, now or when it waits next."""
        # A full queue of signals wakes it as well as one more would.
        with contextlib.suppress(zmq.Again):
            self._signals.send(b"", zmq.NOBLOCK)

    def clear(self) -> None:
        """Called by the waiting thread once it is awake."""
        while transport.receive_frames(self.woken) is not None:
            pass

    def close(self) -> None:
        """Called when the waiting thread has ended."""
        self._signals.close()
        self.woken.close()
