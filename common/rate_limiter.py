"""Keeps learning and acting in proportion.

    error = (inserts − min_size_to_sample) × samples_per_insert − samples

is held in a band of ± `tolerance` samples around 0: above it actors wait, below it the learner. The
arithmetic is Reverb's SampleToInsertRatio (Cassirer et al. 2021, section 3.4), with one change: an
insert is allowed while the error is not above the band, so that one insert may step over the upper
edge by its own size. The band then need not know how much an actor inserts at once, and one of the
two sides can always go on.
"""

from dataclasses import dataclass, field

from common.errors import ConfigError


@dataclass(slots=True)
class RateLimiter:
    """Counts in transitions. `samples_per_insert` None lets both sides run freely once
    `min_size_to_sample` transitions were inserted.

    Raises ConfigError for settings under which both sides would wait for ever.
    """

    samples_per_insert: float | None
    min_size_to_sample: int
    tolerance: float
    """Half the width of the band, in samples."""
    batch_size: int
    """Samples taken at once."""
    inserts: int = field(default=0, init=False)
    samples: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.min_size_to_sample < 1:
            raise ConfigError(
                f"min_size_to_sample = {self.min_size_to_sample} must be at least 1: "
                "nothing can be sampled from an empty table"
            )
        if self.samples_per_insert is None:
            return
        if not 0.0 < self.samples_per_insert < float("inf"):
            raise ConfigError(
                f"samples_per_insert = {self.samples_per_insert} must be positive: "
                "otherwise the learner would wait for ever (none: no limit)"
            )
        # With the actors waiting (error > tolerance) a batch must still be allowed
        # (error − batch_size ≥ −tolerance).
        if not 2 * self.tolerance >= self.batch_size:  # NaN fails every comparison.
            raise ConfigError(
                f"samples_per_insert_tolerance = {self.tolerance:g} must be at least half of "
                f"batch_size = {self.batch_size}: in a narrower band actors and learner would wait "
                "for each other for ever"
            )

    @property
    def error(self) -> float:
        """By how many samples the learner is behind; 0 without a limit."""
        if self.samples_per_insert is None:
            return 0.0
        return (self.inserts - self.min_size_to_sample) * self.samples_per_insert - self.samples

    def can_insert(self) -> bool:
        return self.samples_per_insert is None or self.error <= self.tolerance

    def can_sample(self) -> bool:
        """Whether a batch may be taken."""
        return self.inserts >= self.min_size_to_sample and (
            self.samples_per_insert is None or self.error - self.batch_size >= -self.tolerance
        )

    def resume(self, inserts: int, samples: int) -> None:
        """Continue the counters of an earlier run.

        When the settings changed meanwhile, the old error can lie far outside the new band and one
        side would wait for hours; `samples` is then set so that the error is zero instead. (Up to
        twice the tolerance is no such case: an insert may have stepped over the edge.)
        """
        self.inserts, self.samples = inserts, samples
        if self.samples_per_insert is None:
            return
        due = max(inserts - self.min_size_to_sample, 0) * self.samples_per_insert
        if abs(due - samples) > 2 * self.tolerance:
            self.samples = round(due)
