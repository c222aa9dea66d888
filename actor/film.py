"""Greedy episodes before a camera: what `GreedyEvaluation` plays, one environment at a time.

Which wrappers, which frames, which stacks: all that is the evaluation's own. The camera stands
where Q-values are asked for, once before every step, and takes a last picture of the end.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actor.evaluation import GreedyEvaluation
from actor.picture import as_picture, is_frame
from actor.policy import Policy
from actor.rollout import QFunction
from actor.video_file import VideoFile
from common import atari, minatar
from common.config import Config
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.spec import EnvSpec

Frame = npt.NDArray[Any]
QValues = npt.NDArray[np.float32]
Show = Callable[[Frame, QValues | None], None]
"""Takes what the environment rendered and the Q-values [A] of what is seen there; None at the end,
where there is nothing left to choose."""

DEFAULT_FPS = 30.0
"""For environments that do not say (Gymnasium's RecordVideo takes the same)."""
ATARI_HZ = 60.0


class Filming:
    """One environment that is rendered.

    Gymnasium steps it whatever `vectorization` says, for few vector classes render anything; the
    protocol is the same. With `vectorization = "sync"`, and in MinAtar, the episode of a seed is
    the one that `GreedyEvaluation` plays, to the step. Other vector classes (ale-py's, EnvPool's,
    CartPole's) draw other random numbers from a seed than the single environment.

    Raises EnvironmentFault when the environment cannot be rendered, or plays otherwise alone.
    """

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        # SAME_STEP would show the next episode's beginning in place of this one's end.
        config = config.model_copy(update={"vectorization": "sync", "autoreset": "next_step"})
        self._env = config.env
        try:
            self._vector = make_vector(config, 1, rendered=True)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"cannot film {config.env}: {error}") from error
        if spec_of(self._vector) != spec:
            self._vector.close()
            raise EnvironmentFault(
                f"cannot film {config.env}: alone it is {spec_of(self._vector)}, in the run it was "
                f"{spec}: give it the run's env_kwargs, if these are others"
            )
        self._evaluation = GreedyEvaluation(config, spec, 1, self._vector)
        self._num_actions = spec.num_actions
        self.fps = _fps(config, self._vector.metadata)
        """Steps in a second at the environment's own pace."""

    @property
    def action_names(self) -> list[str]:
        """Their names where somebody gave them any (Atari's get_action_meanings, MinAtar), else
        their numbers."""
        single: Any = self._vector.envs[0].unwrapped
        if hasattr(single, "get_action_meanings"):
            return list(map(str, single.get_action_meanings()))
        if self._env.startswith("MinAtar/"):
            return [minatar.ACTION_NAMES[action] for action in single.action_set]
        return [str(action) for action in range(self._num_actions)]

    def play(
        self,
        q_function: QFunction,
        seed: int | None,
        show: Show,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> tuple[float, int]:
        """Return and length of one episode; `show` is called length + 1 times.

        Raises what `GreedyEvaluation.run` raises, and what `show` raises if zapex explains it.
        """

        def watched(obs: npt.NDArray[Any]) -> QValues:
            q_values = q_function(obs)
            show(self._frame(), q_values[0])
            return q_values

        returns, lengths = self._evaluation.run(watched, seed, goes_on)
        show(self._frame(), None)
        return float(returns[0]), int(lengths[0])

    def close(self) -> None:
        self._evaluation.close()

    def _frame(self) -> Frame:
        """What there is to see after a step. Of the frames that the environment skipped, the last
        two, the brighter pixel of both: as in its observations, for Atari games draw some sprites
        in every other frame only."""
        rendered: Any
        (rendered,) = self._vector.render() or (None,)
        frames = rendered[-2:] if isinstance(rendered, list) else [rendered]
        if not frames or not all(map(is_frame, frames)):
            what = type(rendered).__name__
            if isinstance(rendered, np.ndarray):
                what = f"{rendered.dtype} {rendered.shape}"
            raise EnvironmentFault(
                f"{self._env} renders no pictures, but {what}: must be an array [height, width, 3]"
            )
        frame: Frame = frames[0] if len(frames) == 1 else np.maximum(*frames)
        return frame


def draw_in_memory() -> None:
    """Have pygame open no window and no loudspeaker; to be called before it is imported."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def _fps(config: Config, metadata: dict[str, Any]) -> float:
    if atari.is_atari(config.env):
        return ATARI_HZ / atari.protocol_of(config).frameskip
    return float(metadata.get("render_fps") or DEFAULT_FPS)


def film_episode(
    manifest: Manifest,
    policy: Policy,
    directory: Path,
    goes_on: Callable[[], bool],
) -> Path:
    """A video of one greedy episode, `directory/VERSION.mp4`. The version is that of the policy's
    weights; it also seeds the episode.

    Raises Interrupted, and leaves no file, when `goes_on`, asked at every step, says no; what
    `Filming` and `VideoFile` raise when there can be no video.
    """
    draw_in_memory()
    filming = Filming(manifest.config, manifest.spec)
    try:
        stem = f"{policy.version:08d}"
        with VideoFile(directory, stem, filming.fps) as video:
            filming.play(
                policy.q_values,
                policy.version,
                lambda frame, _: video.write(as_picture(frame)),
                goes_on,
            )
            return video.finish(f"{stem}.mp4")
    finally:
        filming.close()
