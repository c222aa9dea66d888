"""`python -m deploy play RUN_DIR`: what does it do, what a run learnt?"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from common import run_directory
from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from common.flags import JsonObject
from common.process import INTERRUPTED, handling_signals
from deploy.named_code import tell_named_code

if TYPE_CHECKING:
    from actor.film import Filming, Frame, QValues
    from deploy.checkpoint_policy import CheckpointPolicy
    from deploy.window import Window


@dataclass(kw_only=True)
class Play:
    """Watch greedy episodes (ε = 0) of a run's checkpoint, in a window or as videos.

    With vectorization = sync, and in MinAtar, they are the first of those that `python -m deploy
    evaluate` plays with the same seed; other vector classes draw other random numbers from it."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run."""
    checkpoint: str = "best"
    """best, latest, or the number of learner updates of a checkpoint that is there."""
    episodes: int = 1
    """Episodes to play."""
    seed: int = 1_000_000
    """Of the first episode; each further one has the next."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Keyword arguments for the environment, over the run's own."""
    render: Literal["human"] | None = None
    """human: show them in a window, at their own pace. Without this and --video: in a window where
    there is a display, else as videos."""
    video: Path | None = None
    """Directory for a video of each episode. None: RUN_DIR/videos, if there is to be any."""
    format: Literal["mp4", "gif"] = "mp4"
    """Of the videos."""
    q_values: bool = False
    """Draw the Q-values of all actions beside the picture."""
    fps: Annotated[float | None, tyro.conf.arg(metavar="STEPS")] = None
    """Environment steps to show in a second. None: the environment's own pace."""
    debug: bool = False
    """Print a traceback with an error."""


def play(argv: list[str]) -> int:
    options = tyro.cli(Play, args=argv, prog="python -m deploy play")
    if options.episodes < 1:
        raise ConfigError(f"--episodes {options.episodes}: must be at least 1")
    if options.fps is not None and not 0.1 <= options.fps <= 1_000:
        raise ConfigError(f"--fps {options.fps:g}: must be from 0.1 to 1000")
    config = run_directory.stored_config(options.run_dir)
    tell_named_code(options.run_dir, config)
    config = config.model_copy(update={"env_kwargs": config.env_kwargs | options.env_kwargs})

    from deploy import checkpoint_policy
    from deploy.window import has_display

    loaded = checkpoint_policy.load(options.run_dir, config, options.checkpoint)
    if options.render is None and options.video is None:
        if has_display():
            options.render = "human"
        else:
            options.video = options.run_dir / "videos"
            print(f"no display here: videos go to {options.video}")
    return _play(options, config, loaded)


def _play(options: Play, config: Config, loaded: "CheckpointPolicy") -> int:
    from actor.acting_policy import Interrupted
    from actor.film import Filming, draw_in_memory
    from deploy.window import Window

    if options.render is None:
        draw_in_memory()
    # An exception that may come at any moment may come where a film is begun or removed.
    interrupted = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(handling_signals(interrupted.set))
        filming = stack.enter_context(contextlib.closing(Filming(config, loaded.spec)))
        fps = options.fps or filming.fps
        window = None
        if options.render is not None:
            window = Window(f"{config.env}, {loaded.path.name}", fps)
            stack.callback(window.close)

        def goes_on() -> bool:
            return not (interrupted.is_set() or (window is not None and window.closed))

        for number in range(1, options.episodes + 1):
            try:
                said = _episode(options, loaded, filming, fps, window, number, goes_on)
                print(said, flush=True)
            except Interrupted:
                break
            except RunDirectoryError:
                # Ctrl-C also ends an encoder that was just about to leave our process group.
                if interrupted.is_set():
                    break
                raise
    return INTERRUPTED if interrupted.is_set() else 0


def _episode(
    options: Play,
    loaded: "CheckpointPolicy",
    filming: "Filming",
    fps: float,
    window: "Window | None",
    number: int,
    goes_on: Callable[[], bool],
) -> str:
    """Play and show one episode; what to say of it."""
    from actor.picture import QValuePanel, as_picture
    from actor.video_file import VideoFile

    seed = options.seed + number - 1
    stem = f"{loaded.path.stem}_episode_{number}_seed_{seed}"
    panel = QValuePanel(filming.action_names) if options.q_values else None
    with contextlib.ExitStack() as stack:
        video = None
        if options.video is not None:
            video = stack.enter_context(VideoFile(options.video, stem, fps, options.format))

        def show(frame: "Frame", q_values: "QValues | None") -> None:
            picture = as_picture(frame)
            if panel is not None:
                picture = panel.beside(picture, q_values)
            if video is not None:
                video.write(picture)
            if window is not None:
                window.show(picture)

        episode_return, length = filming.play(loaded.policy.q_values, seed, show, goes_on)
        said = f"episode {number}: return {episode_return:g}, length {length}"
        if video is None:
            return said
        name = f"{stem}_return_{episode_return:g}_length_{length}.{options.format}"
        return f"{said}, {video.finish(name)}"
