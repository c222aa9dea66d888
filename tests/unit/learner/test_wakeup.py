"""A thread that waits for its sockets is woken by another one, now or when it waits next."""

import threading
from collections.abc import Iterator

import pytest
import zmq

from learner.wakeup import Wakeup

PATIENCE_MS = 30_000


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    # Its end waits for every socket to be closed.
    with zmq.Context() as context:
        yield context


@pytest.fixture
def wakeup(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Wakeup]:
    wakeup = Wakeup(context)
    yield wakeup
    wakeup.close()


def test_a_waiting_thread_is_woken(wakeup: Wakeup) -> None:
    woken = []
    thread = threading.Thread(target=lambda: woken.append(wakeup.woken.poll(PATIENCE_MS)))
    thread.start()
    wakeup.signal()
    thread.join()
    assert woken == [zmq.POLLIN]


def test_a_signal_waits_for_the_thread_and_is_cleared(wakeup: Wakeup) -> None:
    assert not wakeup.woken.poll(0)
    wakeup.signal()
    assert wakeup.woken.poll(PATIENCE_MS)
    assert wakeup.woken.poll(0), "it stays awake until it clears"
    wakeup.clear()
    assert not wakeup.woken.poll(0)
    wakeup.clear()
    wakeup.signal()
    assert wakeup.woken.poll(PATIENCE_MS)


def test_signals_that_nobody_hears_neither_block_nor_pile_up(wakeup: Wakeup) -> None:
    # More than a queue between two sockets holds.
    for _ in range(5_000):
        wakeup.signal()
    assert wakeup.woken.poll(PATIENCE_MS)
    wakeup.clear()
    assert not wakeup.woken.poll(0)
    wakeup.signal()
    assert wakeup.woken.poll(PATIENCE_MS)


def test_two_wake_two_threads(context: zmq.Context[zmq.Socket[bytes]], wakeup: Wakeup) -> None:
    other = Wakeup(context)
    other.signal()
    assert other.woken.poll(PATIENCE_MS)
    assert not wakeup.woken.poll(0)
    other.close()
