"""A vector environment whose faults name the sub-environment: which, its seed, its step.

`Watch` is there before the environments are, for making them can go wrong, too. What each kind of
vector can tell: `sync` and `async` everything; a vector class of the environment's own, and
EnvPool, only where what they returned is bad, for nobody sees whom they are stepping when they
raise or hang.
"""

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.core import RenderFrame
from gymnasium.vector import AsyncVectorEnv, VectorEnv, VectorWrapper

from common import call_cells, sub_environment
from common.call_cells import (
    ALL,
    DOING,
    SINCE_S,
    STEP,
    UNKNOWN,
    Call,
    Cells,
    Place,
    begin,
    call_in,
    cells_in,
    doing,
    end,
    place_in,
)
from common.errors import EnvironmentFault, ZapexError
from common.finite import all_finite
from common.spec import EnvSpec
from common.sub_environment import Misbehaved, SubEnvironment

_Vector = VectorEnv[Any, Any, Any]
_NUMBERS = "biuf"
"""Kinds of dtypes; true and false are numbers, too."""
_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)
_EXIT_S = 5.0
"""How long the end of a process takes to be known after its pipe has broken, at most."""

log = logging.getLogger(__name__)


class Watch:
    """Who of a vector is in which call.

    Args:
        name: the environment's id.
        private: not to be seen by the process that started this one.
    """

    def __init__(self, name: str, num_envs: int, *, private: bool = False) -> None:
        self.name = name
        self.num_envs = num_envs
        self.thread = threading.get_ident()
        """The one that makes and plays them."""
        self.first_env_index: int | None = None
        """Of these environments on the run's ε ladder; None: they are not on it."""
        self.singles: list[SubEnvironment] = []
        """Environments that are stepped in turn."""
        self.cells = call_cells.own_cells() if private else call_cells.process_cells()
        self.workers: list[Cells] = []
        """Of environments in processes of their own."""
        with _registering:
            _watches.add(self)

    def single_wrappers(self, vectorization: str) -> list[Any]:
        """The outermost wrappers of each environment."""
        return [self._take] if vectorization == "sync" else []

    def vector_kwargs(self, vectorization: str) -> dict[str, Any]:
        """Arguments of Gymnasium's class of vectors."""
        if vectorization != "async":
            return {}
        table = sub_environment.table(self.num_envs)
        self.workers = [cells_in(table, row) for row in range(self.num_envs)]
        return {"worker": sub_environment.worker(table)}

    @contextlib.contextmanager
    def making(self, vectorization: str) -> Iterator[None]:
        """While the environments are made."""
        unknown = vectorization not in ("sync", "async")
        begin(self.cells, Call.MAKE, ALL if unknown else 0)
        try:
            yield
        finally:
            end(self.cells)

    @property
    def place_being_made(self) -> Place:
        """Of the environment that is made next, or was when that failed."""
        return place_in(self.cells)

    def _take(self, env: gym.Env[Any, Any]) -> SubEnvironment:
        single = SubEnvironment(env, len(self.singles), self.cells)
        self.singles.append(single)
        # The next one is about to be made.
        begin(self.cells, Call.MAKE, min(len(self.singles), self.num_envs - 1))
        return single

    def calls(self) -> list[Cells]:
        """Those in which a call is under way now."""
        working = [cells for cells in self.workers if call_in(cells)]
        return working or [cells for cells in (self.cells,) if call_in(cells)]

    def fault(self, what: str, place: Place) -> EnvironmentFault:
        """What it did and who did it, in one line."""
        return EnvironmentFault(f"{self.name} {what} ({place.text(self.first_env_index)})")


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
_registering = threading.Lock()
"""A set that grows while another thread goes through it ends that thread."""


def watches() -> list[Watch]:
    """Of all vectors in this process."""
    with _registering:
        return list(_watches)


class WatchedVector(VectorWrapper[Any, Any, Any, Any, Any]):
    """The outermost wrapper of a vector environment.

    Raises EnvironmentFault from `reset`, `step` and `render`; `close` only warns.
    """

    def __init__(self, env: _Vector, watch: Watch) -> None:
        super().__init__(env)
        self.watch = watch
        self._is_whole = not (watch.singles or watch.workers)
        self._one_for_each = (env.num_envs,)
        self._first_seed = UNKNOWN
        self._steps = 0
        self._has_failed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._first_seed = seed
        self._begin(Call.RESET)
        try:
            obs, info = self.env.reset(seed=seed, options=options)
            if self._is_whole:
                obs = np.asarray(obs)
        except Exception as error:
            raise self._explained(Call.RESET, error) from error
        end(self.watch.cells)
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        self._begin(Call.STEP)
        try:
            obs, reward, terminated, truncated, info = self.env.step(actions)
            if self._is_whole:  # Gymnasium's own vectors return arrays, whatever they are given.
                obs = np.asarray(obs)
                reward = self._one_each("rewards", reward, _FLOAT)
                terminated = self._one_each("terminated", terminated, _BOOL)
                truncated = self._one_each("truncated", truncated, _BOOL)
        except Exception as error:
            raise self._explained(Call.STEP, error) from error
        end(self.watch.cells)
        return obs, reward, terminated, truncated, info

    def render(self) -> tuple[RenderFrame, ...] | None:
        begin(self.watch.cells, Call.RENDER)
        try:
            pictures = self.env.render()
        except Exception as error:
            raise self._explained(Call.RENDER, error) from error
        end(self.watch.cells)
        return pictures

    def close(self, **kwargs: Any) -> None:
        processes = self._vector if isinstance(self._vector, AsyncVectorEnv) else None
        if self._has_failed and processes is not None:
            _end_workers(processes)
            return
        self._begin(Call.CLOSE)
        try:
            super().close(**kwargs)
        except Exception as error:
            log.warning("%s", self._explained(Call.CLOSE, error))
            if processes is not None:
                _end_workers(processes)
        end(self.watch.cells)

    @property
    def envs(self) -> Sequence[gym.Env[Any, Any]]:
        """Those that are stepped in turn."""
        return self.watch.singles

    def place(self, index: int) -> Place:
        """Where a sub-environment is now; ALL: nobody can tell which one."""
        if index == ALL:
            return Place(ALL, step=self._steps)
        if self.watch.singles:
            return self.watch.singles[index].place
        if self.watch.workers:
            return place_in(self.watch.workers[index])
        seed = UNKNOWN if self._first_seed == UNKNOWN else self._first_seed + index
        return Place(index, seed, self._steps)

    def fault(self, index: int, what: str) -> EnvironmentFault:
        """What sub-environment `index` has just done."""
        self._has_failed = True
        return self.watch.fault(what, self.place(index))

    def checked(self, obs: Any, spec: EnvSpec, streams: Sequence[int] | None = None) -> Any:
        """Observations [N, *obs_shape] as they are stored: contiguous, in the spec's dtype.

        Args:
            streams: whose they are; None: of all sub-environments.

        Raises EnvironmentFault when their shape is not the spec's, when one is not finite, or
        beyond what is stored.
        """
        array = np.asarray(obs)
        expected = (self.num_envs if streams is None else len(streams), *spec.obs_shape)
        if array.shape != expected:
            raise self.fault(
                ALL, f"returned observations of shape {array.shape}, its space says {expected}"
            )
        given = array
        if array.dtype != spec.dtype:
            if array.dtype.kind not in _NUMBERS:
                raise self.fault(ALL, f"returned observations of {array.dtype}: must be numbers")
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(spec.dtype)
        array = np.ascontiguousarray(array)
        if array.dtype.kind == "f":
            if not all_finite(array.reshape(-1)):
                bad = _first_row(~np.isfinite(array))
                raise self._bad(bad, streams, "returned an observation that is not finite")
        elif given.dtype != array.dtype and not np.array_equal(given, array):
            bad = _first_row(given != array)
            low, high = given[bad].min(), given[bad].max()
            raise self._bad(
                bad,
                streams,
                f"returned an observation from {low} to {high}, outside of its space",
            )
        return array

    @property
    def _vector(self) -> _Vector:
        return self.env.unwrapped

    def _one_each(self, name: str, values: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """What a vector class returned for each of its environments, as an array [num_envs]."""
        array = np.asarray(values)
        if array.shape != self._one_for_each:
            raise self.fault(
                ALL, f"returned {name} of shape {array.shape}: must be {self._one_for_each}"
            )
        if array.dtype is dtype:
            return array
        if array.dtype.kind not in _NUMBERS:
            raise self.fault(ALL, f"returned {name} of {array.dtype}: must be numbers")
        cast = array.astype(dtype)
        if dtype is _BOOL and not np.array_equal(cast, array):
            bad = _first_row(cast != array)
            raise self.fault(bad, f"returned {name} = {array[bad]}: must be true or false")
        return cast

    def _bad(self, row: int, streams: Sequence[int] | None, what: str) -> EnvironmentFault:
        return self.fault(row if streams is None else int(streams[row]), what)

    def _begin(self, call: Call) -> None:
        """Note that a vector class is about to do it; environments of their own do so themselves,
        and leave it to their vector to look at the clock."""
        cells = self.watch.cells
        cells[SINCE_S] = time.monotonic()
        if self._is_whole:
            cells[STEP] = self._steps
            cells[DOING] = doing(call)

    def _explained(self, call: Call, error: Exception) -> ZapexError:
        """Whatever was raised in a call, with the name of the environment that did it."""
        self._has_failed = True
        end(self.watch.cells)
        if isinstance(error, ZapexError):
            return error
        if isinstance(error, Misbehaved):
            return self.watch.fault(error.what, error.place)
        vector = self._vector
        if isinstance(vector, AsyncVectorEnv) and isinstance(error, EOFError | ConnectionError):
            ended = _ended_worker(vector)
            if ended is not None:
                index, how = ended
                return self.fault(index, f"{how} {call_in(self.watch.workers[index]).text}")
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return self.watch.fault(f"raised {call.text}: {what}", Place(ALL, step=self._steps))


def watched(vector: _Vector, name: str) -> WatchedVector:
    """The vector itself if it is watched already."""
    if isinstance(vector, WatchedVector):
        return vector
    return WatchedVector(vector, Watch(name, vector.num_envs))


def _first_row(bad: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])


def _ended_worker(vector: AsyncVectorEnv[Any, Any]) -> tuple[int, str] | None:
    """The environment whose process has ended, and how; None: all are there."""
    workers: dict[int, int] = {p.sentinel: i for i, p in enumerate(vector.processes)}
    ended = sorted(workers[sentinel] for sentinel in wait(list(workers), _EXIT_S))  # type: ignore[index]
    if not ended:
        return None
    process = vector.processes[ended[0]]
    # It has closed all it had open, and may not be quite gone yet.
    process.join(_EXIT_S)
    code = process.exitcode or 0
    if code < 0:
        return ended[0], f"had its process killed by signal {-code}"
    return ended[0], f"ended its process with exit code {code}"


def _end_workers(vector: AsyncVectorEnv[Any, Any]) -> None:
    """After a fault: Gymnasium would wait for answers of processes that are gone or hang."""
    for worker in vector.processes:
        worker.kill()
    for worker in vector.processes:
        worker.join()
    for pipe in vector.parent_pipes:
        if pipe is not None:
            pipe.close()
    vector.closed = True
