"""The evaluator's camera: films beside the evaluations, and never keeps one waiting."""

import logging
import threading
from pathlib import Path

from actor.acting_policy import Interrupted
from actor.film import film_episode
from actor.policy import Policy
from common.errors import RunDirectoryError
from common.manifest import Manifest
from common.messages import Weights

log = logging.getLogger(__name__)


class FilmThread:
    """One greedy episode of every `video_period` evaluations, in a thread with a network of its
    own. What goes wrong there is one warning, after which nothing is filmed any more; but for a
    video that cannot be written, for a full disk may have room again.

    Args:
        directory: of the videos.
    """

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self._manifest = manifest
        self._directory = directory
        self._period = manifest.config.video_period
        self._passed_over = (self._period or 1) - 1
        """Evaluations since the last one that was filmed. The first one is."""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, weights: Weights) -> None:
        """These have been evaluated: film them if it is their turn. Returns at once; while another
        film is under way, the turn passes to the next that are offered."""
        if self._period is None:
            return
        busy = self._thread is not None and self._thread.is_alive()
        if busy or self._passed_over < self._period - 1:
            self._passed_over += 1
            return
        self._passed_over = 0
        self._thread = threading.Thread(target=self._film, args=(weights,), name="film")
        self._thread.start()

    def close(self) -> None:
        """End what is being filmed, within a step; it leaves no file."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _film(self, weights: Weights) -> None:
        try:
            policy = Policy(self._manifest)
            policy.load(weights)
            film_episode(self._manifest, policy, self._directory, lambda: not self._ending.is_set())
        except Interrupted:
            pass
        except RunDirectoryError as error:
            log.warning("an evaluation was not filmed: %s", error)
        except Exception as error:
            self._period = None
            log.warning("evaluations are not filmed any more: %s", " ".join(str(error).split()))
