"""What may become of bytes: a message or a WireError, in little time and little memory."""

import contextlib
import os
import resource
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from common import codec
from common.compression import CompressedArray
from common.errors import Reason, WireError
from common.messages import Message
from tests.fuzz.mutations import Frames, Mutator

CPU_LIMIT_S = 0.05
"""Of one input, plus …"""
CPU_LIMIT_S_PER_BYTE = 2e-6
MEMORY_LIMIT_KB = 32 << 10
"""By which an input may raise the peak of this process's memory, plus …"""
MEMORY_LIMIT_KB_PER_BYTE = 0.1
"""A hundred bytes for each of its own: an empty list is one byte of msgpack and 56 in Python."""
UNPACKED_LIMIT = 1 << 20
"""Compressed arrays that claim more are not unpacked: their readers compare the shape with what
they expect first."""


@dataclass
class Tally:
    """What became of many inputs."""

    inputs: int = 0
    messages: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    answers: set[str] = field(default_factory=set)
    """Different ones: kinds of messages, and places in the code that refused."""
    findings: list[str] = field(default_factory=list)
    """Names of reproducer files, and what is wrong."""

    def add(self, other: "Tally") -> None:
        self.inputs += other.inputs
        self.messages += other.messages
        self.rejected += other.rejected
        self.answers |= other.answers
        self.findings += other.findings


def decoded(frames: Frames) -> Message:
    """Decode, and unpack what is compressed, as whoever reads the message does.

    Raises WireError.
    """
    message = codec.decode(frames)
    for each in fields(message):  # type: ignore[arg-type]
        array = getattr(message, each.name)
        if isinstance(array, CompressedArray) and 0 < array.nbytes <= UNPACKED_LIMIT:
            array.copy_to(np.empty(array.shape, array.dtype))
    return message


def fuzz(seed: str, inputs: int, reproducers: Path) -> Tally:
    """Decode so many inputs; the same seed makes the same inputs."""
    mutator, tally = Mutator(seed), Tally(inputs)
    for _ in range(inputs):
        frames = mutator.next()
        fault = ""
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        since_s = time.thread_time()
        try:
            answer = decoded(frames).kind
            tally.messages += 1
        except WireError as error:
            tally.rejected[error.reason] += 1
            answer = _place(error)
        except BaseException as error:
            answer = f"{type(error).__name__} {_place(error)}"
            fault = "".join(traceback.format_exception(error))
        took_s = time.thread_time() - since_s
        size = sum(map(len, frames))
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb
        if grown_kb > MEMORY_LIMIT_KB + MEMORY_LIMIT_KB_PER_BYTE * size:
            fault += f"{size} bytes made the process grow by {grown_kb} KB\n"
        limit_s = CPU_LIMIT_S + CPU_LIMIT_S_PER_BYTE * size
        if took_s > limit_s and _fastest_s(frames) > limit_s:
            fault += f"{size} bytes took {took_s:.3f} s of processor time\n"
        if fault:
            tally.findings.append(f"{write_reproducer(frames, reproducers)}\n{fault}")
        if answer not in tally.answers:
            tally.answers.add(answer)
            mutator.keep(frames)
    return tally


def _place(error: BaseException) -> str:
    """Where in the code it was raised: the feedback that guides the mutator."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _fastest_s(frames: Frames) -> float:
    """Of three more tries: the machine may have been busy with something else."""
    took_s = []
    for _ in range(3):
        since_s = time.thread_time()
        with contextlib.suppress(Exception):
            decoded(frames)
        took_s.append(time.thread_time() - since_s)
    return min(took_s)


def write_reproducer(frames: Frames, directory: Path) -> Path:
    """A Python file that decodes these frames."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"finding-{os.getpid()}-{time.time_ns()}.py"
    lines = "".join(f"    bytes.fromhex({frame.hex()!r}),\n" for frame in frames)
    path.write_text(
        '"""Run from the checkout: python -m tests.fuzz --reproduce THIS_FILE"""\n\n'
        f"FRAMES = [\n{lines}]\n"
    )
    return path
