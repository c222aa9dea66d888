"""What this machine can do at most: the limits that other figures stand beside.

Copies of 256 MiB, and random gathers of frames (7,056 bytes) out of 512 MiB into a buffer of one
batch that is used again and again, by PyTorch with one thread and with two. Loopback TCP: a thread
sends, another receives into the same buffer. Figures are medians over the rounds.
"""

import functools
import socket
import statistics
import threading
import time
from collections.abc import Callable

import torch

from tests.benchmarks.report import Figure, report

COPIED_BYTES = 1 << 28
GATHERED_FROM_BYTES = 1 << 29
FRAME_BYTES = 84 * 84
FRAMES = 512 * 7
"""In a batch of 512 transitions with stacks of four and n = 3."""
SENT_BYTES = 1 << 20
"""In one call."""


def run(rounds: int = 5, window_s: float = 0.5, json: bool = False) -> None:
    """What this machine can do at most.

    Args:
        rounds: Windows for each figure.
        window_s: Seconds for each.
        json: Print one line of JSON for each figure.
    """
    report(figures(rounds, window_s), as_json=json)


def figures(rounds: int, window_s: float) -> list[Figure]:
    """GB/s; what is copied or gathered counts once."""
    measures: dict[str, Callable[[float], float]] = {
        "copy_1_thread": functools.partial(copied_bytes_per_s, 1),
        "copy_2_threads": functools.partial(copied_bytes_per_s, 2),
        "gather_frames_1_thread": functools.partial(gathered_bytes_per_s, 1),
        "gather_frames_2_threads": functools.partial(gathered_bytes_per_s, 2),
        "loopback_tcp": loopback_bytes_per_s,
    }
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure(window_s))
    return [
        Figure(f"machine.{name}", statistics.median(values) / 1e9, "GB/s")
        for name, values in found.items()
    ]


def copied_bytes_per_s(threads: int, window_s: float) -> float:
    """One large tensor over another."""
    source, target = _copied()
    return COPIED_BYTES * _calls_per_s(threads, window_s, lambda: target.copy_(source))


def copy_speed() -> float:
    """GB/s that one thread copies now: by how much machines, and days, differ. Keeps no memory."""
    speed = copied_bytes_per_s(1, 0.5) / 1e9
    _copied.cache_clear()
    return speed


def gathered_bytes_per_s(threads: int, window_s: float) -> float:
    """Frames from random places into a batch."""
    source, target = _gathered()

    def gather() -> None:
        rows = torch.randint(len(source), (FRAMES,))
        torch.index_select(source, 0, rows, out=target)

    return FRAMES * FRAME_BYTES * _calls_per_s(threads, window_s, gather)


def loopback_bytes_per_s(window_s: float) -> float:
    """One TCP connection from this host to itself."""
    payload, received = bytes(SENT_BYTES), bytearray(SENT_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()

    def send() -> None:
        with sender:
            try:
                while True:
                    sender.sendall(payload)
            except OSError:  # Nobody receives any more.
                return

    thread = threading.Thread(target=send)
    thread.start()
    with receiver:
        total, start_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - start_s) < window_s:
            total += receiver.recv_into(received)
    thread.join()
    return total / elapsed_s


@functools.cache
def _copied() -> tuple[torch.Tensor, torch.Tensor]:
    # ones: every page is touched before it is timed.
    return torch.ones(COPIED_BYTES, dtype=torch.uint8), torch.ones(COPIED_BYTES, dtype=torch.uint8)


@functools.cache
def _gathered() -> tuple[torch.Tensor, torch.Tensor]:
    rows = GATHERED_FROM_BYTES // FRAME_BYTES
    source = torch.ones((rows, FRAME_BYTES), dtype=torch.uint8)
    return source, torch.ones((FRAMES, FRAME_BYTES), dtype=torch.uint8)


def _calls_per_s(threads: int, window_s: float, call: Callable[[], object]) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call()
        calls, start_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - start_s) < window_s:
            call()
            calls += 1
    finally:
        torch.set_num_threads(before)
    return calls / elapsed_s
