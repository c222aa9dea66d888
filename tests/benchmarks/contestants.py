"""Processes that are measured in turn, so that a slow minute of the machine is everybody's.

Each contestant has a process of its own. It says that it is ready, then measures one round for each
line on its stdin and prints what it found as one line of JSON; between its rounds it does nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.benchmarks.peers import ABSENT, PeerError, Peers, Unavailable

Round = dict[str, list[float]]
"""Measured values by quantity."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One process: `python -m tests.benchmarks.<module> <arguments>`."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    is_peer: bool = False
    """It runs in the peers' Python, and does not take part where it is not installed."""


def serve_rounds(measure: Callable[[], Round]) -> None:
    """A contestant's main loop."""
    print("ready", flush=True)
    for _ in sys.stdin:
        # Whatever libraries print, the result is the only line on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            found = measure()
        print(json.dumps(found), flush=True)


def take_turns(
    contestants: Sequence[Contestant], rounds: int, peers: Peers, *, go_on: bool = False
) -> dict[str, Round]:
    """The values of all rounds by contestant; without the peers that are missing.

    Args:
        go_on: Whoever fails is left out, and told to `peers`.

    Raises PeerError when a process fails, unless it is to go on.
    """
    values: dict[str, Round] = {}
    with ExitStack() as stack:
        # To start is to import, and often to compile: as many at a time as there are cores.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            starts = {c.name: pool.submit(_start, c, peers, stack) for c in contestants}
        processes = {}
        for name, start in starts.items():
            with _leaving_out(name, peers, go_on, values):
                process = start.result()
                if process is not None:
                    processes[name] = process
                    values[name] = {}
        for _ in range(rounds):
            for name in list(values):
                with _leaving_out(name, peers, go_on, values):
                    for quantity, found in _next_round(processes[name]).items():
                        values[name].setdefault(quantity, []).extend(found)
    return values


@contextmanager
def _leaving_out(name: str, peers: Peers, go_on: bool, values: dict[str, Round]) -> Iterator[None]:
    try:
        yield
    except PeerError as error:
        if not go_on:
            raise
        peers.fail(name, str(error))
        values.pop(name, None)


def _start(
    contestant: Contestant, peers: Peers, stack: ExitStack
) -> "subprocess.Popen[str] | None":
    """Its process, ready; None where what it needs cannot be imported."""
    reasons = []
    for python in peers.pythons(contestant.name) if contestant.is_peer else (sys.executable,):
        try:
            return stack.enter_context(_running(python, contestant))
        except Unavailable as error:
            reasons.append(str(error))
    if contestant.is_peer:
        peers.miss(contestant.name, reasons)
    return None


@contextmanager
def _running(python: str, contestant: Contestant) -> Iterator["subprocess.Popen[str]"]:
    command = [python, "-m", f"tests.benchmarks.{contestant.module}", *contestant.arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        if said == "ready\n":
            yield process
        elif process.wait() == ABSENT:
            raise Unavailable(said.strip())
        else:
            raise PeerError(f"exit status {process.returncode} from: {' '.join(command)}")


def _next_round(process: "subprocess.Popen[str]") -> Round:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if not line:
        raise PeerError(f"exit status {process.wait()} from: {process.args!r}")
    found: Round = json.loads(line)
    return found
