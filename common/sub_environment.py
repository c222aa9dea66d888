"""One environment of a vector: notes who is being called, and names what goes wrong.

Gymnasium's vectors call their environments in turn (`sync`) or each in a process of its own
(`async`), and say of an error neither whose it was nor when. They also take what no environment may
return: an observation of another shape with as many numbers, a `terminated` that is None, a reward
that is a list of one number.
"""

import contextlib
import ctypes
import functools
import logging
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector.async_vector_env import _async_worker

from common.call_cells import (
    CELLS,
    DOING,
    FIRST_SEED,
    NOBODY,
    STEP,
    UNKNOWN,
    Call,
    Cells,
    Place,
    begin,
    cells_in,
    doing,
    end,
)

_TRUTHS = frozenset({bool, np.bool_})
_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

log = logging.getLogger(__name__)


class Misbehaved(Exception):
    """A sub-environment raised, or returned what it must not.

    Gymnasium carries it from an environment's process to the actor by its type and its only
    argument, which is the error itself.

    Args:
        what: it did, to follow its name.
    """

    what: str
    place: Place

    def __init__(self, what: "str | Misbehaved", place: Place = NOBODY) -> None:
        super().__init__(what, place)
        if isinstance(what, Misbehaved):
            self.what, self.place = what.what, what.place
        else:
            self.what, self.place = what, place


class SubEnvironment(gym.Env[Any, Any]):
    """The outermost wrapper of an environment. Not a gym.Wrapper: that has a `__getattr__`, with
    which Python looks up every attribute the slow way, at every step.

    Raises Misbehaved from `reset` and `step`; `close` only warns, for what is closed is not needed
    any more.

    Args:
        index: within its vector.
        cells: where to note what it does.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int, cells: Cells) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode, self.spec = env.metadata, env.render_mode, env.spec
        self._step = env.step
        self._index, self._cells = index, cells
        self._in_step, self._in_none = doing(Call.STEP, index), doing(Call.NONE, index)
        self._seed, self._steps, self._episode_began = UNKNOWN, 0, 0
        space = env.observation_space
        # Others are refused when the run's spec is made.
        self._is_box = isinstance(space, gym.spaces.Box)
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)

    @property
    def place(self) -> Place:
        return Place(self._index, self._seed, self._steps, self._steps - self._episode_began)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._seed = seed
            self._cells[FIRST_SEED] = seed - self._index
        self._episode_began = self._steps
        self._begin(Call.RESET)
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise self._raised("reset", error) from error
        end(self._cells)
        return self._declared(obs), self._told(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # The way of every step: what `_begin` and `end` do, written out, but for the clock.
        cells = self._cells
        self._steps = cells[STEP] = self._steps + 1
        cells[DOING] = self._in_step
        try:
            obs, reward, terminated, truncated, info = self._step(action)
        except (Exception, SystemExit) as error:
            raise self._raised("step", error) from error
        cells[DOING] = self._in_none
        # What must be looked at closer is found by its class.
        if terminated.__class__ is not bool or truncated.__class__ is not bool:
            terminated = self._truth("terminated", terminated)
            truncated = self._truth("truncated", truncated)
        if reward.__class__ is not float:
            reward = self._number(reward)
        if (
            obs.__class__ is not np.ndarray
            or obs.dtype is not self._dtype
            or obs.shape != self._shape
        ):
            obs = self._declared(obs)
        if terminated or truncated:
            # With SAME_STEP the next episode begins before it is read, maybe in the same array.
            obs = obs.copy()
        if info or info.__class__ is not dict:
            info = self._told(info)
        return obs, reward, terminated, truncated, info

    @property
    def unwrapped(self) -> gym.Env[Any, Any]:
        return self.env.unwrapped

    def render(self) -> Any:
        return self.env.render()

    def has_wrapper_attr(self, name: str) -> bool:
        return self.env.has_wrapper_attr(name)

    def get_wrapper_attr(self, name: str) -> Any:
        return self.env.get_wrapper_attr(name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        return self.env.set_wrapper_attr(name, value, force=force)

    def close(self) -> None:
        self._begin(Call.CLOSE)
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            log.warning(
                "an environment raised in close: %s (%s)", _one_line(error), self.place.text()
            )
        end(self._cells)

    def _begin(self, call: Call) -> None:
        self._cells[STEP] = self._steps
        begin(self._cells, call, self._index)

    def _misbehaved(self, what: str) -> Misbehaved:
        end(self._cells)
        return Misbehaved(what, self.place)

    def _raised(self, call: str, error: BaseException) -> Misbehaved:
        return self._misbehaved(f"raised in {call}: {_one_line(error)}")

    def _declared(self, obs: Any) -> Any:
        """The observation as an array of the shape and dtype that its space declares."""
        if not self._is_box:
            return obs
        try:
            array = np.asarray(obs)
        except ValueError as error:
            raise self._misbehaved(
                f"returned an observation that is no array: {_one_line(error)}"
            ) from error
        if array.shape != self._shape:
            raise self._misbehaved(
                f"returned an observation of shape {array.shape}, its space says {self._shape}"
            )
        if array.dtype == self._dtype:
            return array
        if array.dtype.kind in "iu" and self._dtype.kind in "iu":
            return self._same_integers(array)
        if not np.can_cast(array.dtype, self._dtype, "same_kind"):
            raise self._misbehaved(
                f"returned an observation of {array.dtype}, its space says {self._dtype}"
            )
        return array

    def _same_integers(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Integers of another width or sign, as long as each keeps its value."""
        cast = array.astype(self._dtype)
        if not (cast == array).all():
            raise self._misbehaved(
                f"returned an observation from {array.min()} to {array.max()}, its space's "
                f"{self._dtype} cannot hold that"
            )
        return cast

    def _truth(self, name: str, value: Any) -> bool:
        if value.__class__ in _TRUTHS or (isinstance(value, int | np.integer) and value in (0, 1)):
            return bool(value)
        raise self._misbehaved(f"returned {name} = {value!r:.60}: must be true or false")

    def _number(self, reward: SupportsFloat) -> float:
        if not isinstance(reward, str | bytes) and getattr(reward, "ndim", 0) == 0:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return float(reward)
        raise self._misbehaved(f"returned a reward that is no number: {reward!r:.60}")

    def _told(self, info: Any) -> dict[str, Any]:
        """What is read of an info. Gymnasium puts those of all environments together, entry by
        entry: that takes longer than many a step, and raises where two do not match."""
        if not isinstance(info, dict):
            raise self._misbehaved(f"returned an info that is no dictionary: {info!r:.60}")
        lives = info.get("lives")
        return {"lives": int(lives)} if isinstance(lives, int | np.integer) else {}


def worker(cells: Any) -> Callable[..., None]:
    """What runs in each process of an AsyncVectorEnv.

    Args:
        cells: a RawArray of a row of cells for each of its environments.
    """
    return functools.partial(_work, cells)


def _work(
    cells: Any,
    index: int,
    env_fn: Callable[[], gym.Env[Any, Any]],
    pipe: Any,
    parent_pipe: Any,
    shared_memory: Any,
    error_queue: Any,
    autoreset_mode: Any,
    *more: Any,
) -> None:
    _end_with_parent()
    row = cells_in(cells, index)
    begin(row, Call.MAKE, index)
    try:
        env = SubEnvironment(env_fn(), index, row)
    except (Exception, SystemExit) as error:
        # An actor that has made all its processes asks each for its spaces.
        pipe.recv()
        failure = Misbehaved(f"cannot be made: {_one_line(error)}", Place(index))
        error_queue.put((index, Misbehaved, failure, traceback.format_exc()))
        pipe.send((None, False))
        return
    end(row)
    _async_worker(
        index,
        lambda: env,
        pipe,
        parent_pipe,
        shared_memory,
        error_queue,
        autoreset_mode,
        *more,
    )


def _end_with_parent() -> None:
    """Have Linux kill this process when its actor is gone, or the server that forked it for the
    actor and that ends with it, whatever it is doing then. Elsewhere the end of its pipe ends it,
    once it listens."""
    if not sys.platform.startswith("linux"):
        return
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and not parent.is_alive():
        sys.exit(1)


def table(num_envs: int) -> Any:
    """Cells for the processes of that many environments."""
    return multiprocessing.get_context().RawArray("d", CELLS * num_envs)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
