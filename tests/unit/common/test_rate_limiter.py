"""The rate limiter's arithmetic: where its band lies, and that one side can always go on."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.rate_limiter import RateLimiter


def limiter(
    samples_per_insert: float | None = 2.0,
    min_size_to_sample: int = 10,
    tolerance: float = 8.0,
    batch_size: int = 4,
    inserts: int = 0,
    samples: int = 0,
) -> RateLimiter:
    limiter = RateLimiter(samples_per_insert, min_size_to_sample, tolerance, batch_size)
    limiter.inserts, limiter.samples = inserts, samples
    return limiter


@pytest.mark.parametrize(
    ("inserts", "samples", "can_insert", "can_sample"),
    [
        # 2 samples for each insert, band ±8 around the error at 10 inserts, batches of 4:
        #   error = 2 · (inserts − 10) − samples, can_insert: error ≤ 8, can_sample: error − 4 ≥ −8
        (0, 0, True, False),
        (9, 0, True, False),  # Below min_size_to_sample nothing is sampled …
        (10, 0, True, True),  # error 0: both, and four more …
        (10, 4, True, True),  # … error −4: −4 − 4 ≥ −8, the last batch that is allowed
        (10, 5, True, False),  # error −5: −5 − 4 < −8
        (10, 8, True, False),  # error −8: the lower edge
        (11, 8, True, False),  # error −6
        (12, 8, True, True),  # error −4: a batch again
        (14, 0, True, True),  # error +8: the upper edge, still allowed
        (15, 0, False, True),  # error +10: beyond it
        (15, 2, True, True),  # error +8
        (1_000, 1_972, True, True),  # error +8: 1980 − 1972
        (1_000, 1_971, False, True),  # error +9
    ],
)
def test_who_may_go_on(inserts: int, samples: int, can_insert: bool, can_sample: bool) -> None:
    now = limiter(inserts=inserts, samples=samples)

    assert now.error == 2 * (inserts - 10) - samples
    assert (now.can_insert(), now.can_sample()) == (can_insert, can_sample)


def test_before_the_first_sample_inserts_are_allowed_however_low_the_error_is() -> None:
    early = limiter(samples_per_insert=100.0, min_size_to_sample=1_000, inserts=999)

    assert early.error == -100.0
    assert early.can_insert()
    assert not early.can_sample()


def test_one_insert_that_is_wider_than_the_band_does_not_block_for_ever() -> None:
    wide = limiter(inserts=10)
    wide.inserts += 1_000

    taken = 0
    while not wide.can_insert():
        assert wide.can_sample()
        wide.samples += 4
        taken += 4
    assert taken == 1_992  # error 2000 → 8


@pytest.mark.parametrize("inserts", [0, 9])
def test_without_a_ratio_samples_wait_for_the_minimum_size_alone(inserts: int) -> None:
    free = limiter(samples_per_insert=None, tolerance=0.0, inserts=inserts)
    assert free.can_insert()
    assert not free.can_sample()

    free.inserts += 10 - inserts
    for _ in range(100):
        assert free.can_insert()
        assert free.can_sample()
        free.inserts += 1_000
        free.samples += 1_000_000
        assert free.error == 0.0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_size_to_sample": 0}, "min_size_to_sample = 0 must be at least 1"),
        ({"min_size_to_sample": 0, "samples_per_insert": None}, "must be at least 1"),
        ({"min_size_to_sample": -5}, "must be at least 1"),
        ({"samples_per_insert": 0.0}, "samples_per_insert = 0.0 must be positive"),
        ({"samples_per_insert": -1.0}, "must be positive"),
        ({"samples_per_insert": float("nan")}, "must be positive"),
        ({"samples_per_insert": float("inf")}, "must be positive"),
        ({"tolerance": 1.99}, "must be at least half of batch_size = 4"),
        ({"tolerance": 0.0}, "must be at least half of batch_size = 4"),
        ({"tolerance": -8.0}, "must be at least half of batch_size = 4"),
        ({"tolerance": float("nan")}, "must be at least half of batch_size = 4"),
    ],
    ids=str,
)
def test_settings_that_would_wait_for_ever_are_refused_with_the_reason(
    settings: dict[str, float], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        limiter(**settings)  # type: ignore[arg-type]


def test_the_narrowest_band_that_is_accepted_never_deadlocks() -> None:
    narrow = limiter(samples_per_insert=0.5, tolerance=2.0, min_size_to_sample=1)
    for _ in range(1_000):
        if narrow.can_insert():
            narrow.inserts += 1
        else:
            assert narrow.can_sample()
            narrow.samples += 4


@dataclass(frozen=True)
class Setting:
    samples_per_insert: Fraction
    min_size_to_sample: int
    tolerance: Fraction
    batch_size: int
    largest_insert: int

    def error(self, inserts: int, samples: int) -> Fraction:
        """inserts × samples_per_insert − samples, from the value at the first allowed sample."""
        centre = self.min_size_to_sample * self.samples_per_insert
        return inserts * self.samples_per_insert - samples - centre


@st.composite
def all_settings(draw: st.DrawFn) -> Setting:
    batch_size = draw(st.integers(1, 64))
    return Setting(
        samples_per_insert=Fraction(draw(st.integers(1, 64)), draw(st.sampled_from([1, 2, 8]))),
        min_size_to_sample=draw(st.integers(1, 200)),
        tolerance=Fraction(batch_size, 2) + Fraction(draw(st.integers(0, 200)), 2),
        batch_size=batch_size,
        largest_insert=draw(st.integers(1, 100)),
    )


turns = st.lists(
    st.tuples(st.sampled_from(["actors", "learner"]), st.integers(1, 40), st.integers(1, 100)),
    max_size=30,
)


@settings(max_examples=150)
@given(all_settings(), turns)
def test_in_any_interleaving_the_error_stays_in_its_band_and_one_side_can_go_on(
    setting: Setting, turns: list[tuple[str, int, int]]
) -> None:
    inserts = samples = 0
    real = RateLimiter(
        float(setting.samples_per_insert),
        setting.min_size_to_sample,
        float(setting.tolerance),
        setting.batch_size,
    )
    for side, at_most, insert_size in turns:
        # A side that has its turn takes as much as it may, up to so many inserts or batches.
        for _ in range(at_most):
            assert real.can_insert() or real.can_sample(), "both wait for ever"
            if side == "actors" and real.can_insert():
                inserts += min(insert_size, setting.largest_insert)
                real.inserts += min(insert_size, setting.largest_insert)
            elif side == "learner" and real.can_sample():
                samples += setting.batch_size
                real.samples += setting.batch_size
            else:
                break

            error = setting.error(inserts, samples)
            assert real.error == error
            if inserts < setting.min_size_to_sample:
                assert samples == 0
            else:
                one_insert = setting.largest_insert * setting.samples_per_insert
                assert -setting.tolerance <= error <= setting.tolerance + one_insert


# ---------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    ("inserts", "samples", "error"),
    [
        (100, 180, 0.0),  # 2 · 90 − 180
        (100, 175, 5.0),
        (100, 188, -8.0),  # the learner waits
        (100, 171, 9.0),  # actors wait: an insert stepped over the edge
        (100, 164, 16.0),  # twice the tolerance
        (100, 196, -16.0),
    ],
)
def test_a_resumed_limiter_goes_on_where_it_stood(inserts: int, samples: int, error: float) -> None:
    stopped, resumed = limiter(inserts=inserts, samples=samples), limiter()
    resumed.resume(inserts, samples)

    assert resumed == stopped
    assert resumed.error == error


@pytest.mark.parametrize("inserts", [0, 1, 9])
def test_a_limiter_resumed_before_its_first_sample_goes_on_where_it_stood(inserts: int) -> None:
    resumed = limiter()
    resumed.resume(inserts, samples=0)

    assert resumed == limiter(inserts=inserts)
    assert not resumed.can_sample()


@pytest.mark.parametrize(
    ("inserts", "samples"),
    [
        (1_000, 100),  # error +1880: with the ratio it had before, actors were allowed more
        (1_000, 32_000),  # error −30020: the learner was
        (100, 163),  # error +17, more than twice the tolerance
        (100, 197),
    ],
)
def test_an_error_of_other_settings_is_centred_on_resuming(inserts: int, samples: int) -> None:
    resumed = limiter()
    resumed.resume(inserts, samples)

    assert (resumed.inserts, resumed.error) == (inserts, 0.0)
    assert resumed.can_insert()
    assert resumed.can_sample()


def test_a_larger_minimum_size_after_resuming_makes_nobody_wait_beyond_it() -> None:
    resumed = limiter(samples_per_insert=32.0, min_size_to_sample=1_000)
    resumed.resume(inserts=500, samples=12_800)  # Of a run that began to sample at 100.
    resumed.inserts += 500

    assert resumed.can_sample()
