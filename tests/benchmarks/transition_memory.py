"""Bytes of memory for each stored transition, everything counted.

Counted: all arrays and mappings that the replay server's table holds, with context and tail rows,
sum tree and block numbers. Measured: by how much the resident memory of a process grows that makes
the table and fills it. Both are divided by the transitions that can be drawn. The limit is one
observation. The peer is cpprb, measured in the same way: with whole stacks, and with its own way of
storing each frame once, which needs the steps of a single environment, in order.
"""

import gc
import mmap
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import psutil

from common.messages import Insert
from replay_server.server import build_table
from replay_server.table import Table
from tests.benchmarks.own_replay import manifest_of
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import WORKLOADS, Experience, Workload, child

BLOCK_LENGTHS = (16, 64, 256)


def run(
    peers: bool = True,
    peer_python: tuple[str, ...] = (sys.executable,),
    json: bool = False,
) -> None:
    """Bytes of memory for each stored transition.

    Args:
        peers: Measure the peers, too.
        peer_python: The Pythons in which peers may be installed.
        json: Print one line of JSON for each figure.
    """
    report(figures(Peers(peer_python if peers else ())), as_json=json)


def figures(peers: Peers) -> list[Figure]:
    """Ours by block length, beside one observation and the best peer."""
    result = []
    for name, workload in WORKLOADS.items():
        theirs = {
            printed["name"]: float(printed["bytes"])
            for printed in peers.run("cpprb_memory", ["--workload", name]) or ()
        }
        best = min(theirs, key=lambda peer: theirs[peer], default=None)
        for length in BLOCK_LENGTHS:
            counted, measured = _bytes_per_transition(replace(workload, length=length))
            for how, value in (("counted", counted), ("measured", measured)):
                result.append(
                    Figure(
                        f"transition_memory.{name}.blocks_of_{length}.{how}",
                        value,
                        "bytes",
                        limit=workload.obs_nbytes,
                        limit_name="one observation",
                        peer=None if best is None else theirs[best],
                        peer_name=best,
                    )
                )
        result += [
            Figure(f"transition_memory.{name}.measured[{peer}]", value, "bytes")
            for peer, value in theirs.items()
        ]
    return result


def _bytes_per_transition(workload: Workload) -> tuple[float, float]:
    """(counted, measured), in a process of its own."""
    with child(_measure, workload) as measuring:
        counted, measured = measuring.recv()
    return counted, measured


def _measure(workload: Workload, result: Connection) -> None:
    experience = workload.experience(seed=0)
    experience.row_kind[:] = 0  # Every row starts a transition.
    # Compiles, which takes memory, too.
    _fill(replace(workload, capacity=workload.batch_size + workload.insert_size), experience)
    gc.collect()
    before = psutil.Process().memory_info().rss
    table = _fill(workload, experience)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    transitions = table.sampler.size
    result.send((held_bytes(table) / transitions, grown / transitions))


def _fill(workload: Workload, experience: Experience) -> Table:
    """A table full of it."""
    table = build_table(manifest_of(workload), None)
    for sequence in range(-(-workload.capacity // workload.insert_size)):
        insert = Insert(0, sequence, 0, *experience, oldest=sequence)
        table.handle(b"writer", insert, now_s=0.0)
    return table


def held_bytes(root: object) -> int:
    """Bytes of all numpy arrays and mappings reachable from an object, each memory once."""
    seen: set[int] = set()
    found: dict[int, int] = {}
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, MethodType)):
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            owner = _owner(thing)
            found[id(owner)] = len(owner) if isinstance(owner, mmap.mmap) else owner.nbytes
        else:
            waiting += gc.get_referents(thing)
    return sum(found.values())


def _owner(array: Any) -> Any:
    """The array or mapping whose memory an array is a view of."""
    while (base := array.base if isinstance(array, np.ndarray) else array.obj) is not None:
        if isinstance(base, mmap.mmap):
            return base
        array = base
    return array
