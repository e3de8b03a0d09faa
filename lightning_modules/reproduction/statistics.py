"""How far our few runs are from a published number: intervals by Student's t, always of ours minus theirs.

At a confidence of 0.90 an interval inside ±δ is a pair of one-sided tests at 5 % (TOST, Schuirmann 1987): "the difference
is smaller than δ" is then said wrongly at most once in twenty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_modules.comparison.statistics import Interval
from lightning_modules.reproduction.claim import Original

JUDGED, SHOWN = 0.90, 0.95  # the confidence of the difference that is judged, and of our own mean


@dataclass(frozen=True)
class Sample:
    """What is known of some runs: their mean, their standard deviation (None where it is not known) and their number."""

    mean: float
    std: float | None
    n: int

    @property
    def has_spread(self) -> bool:
        """Whether an interval can be said of its mean."""
        return self.n > 1 and self.std is not None


def sample_of(values: Sequence[float]) -> Sample | None:
    """Mean and standard deviation (n - 1) of `values`; None of none. Equal values have a standard deviation of exactly 0."""
    if not len(values):
        return None
    array = np.asarray(values, dtype=float)
    # the mean of equal numbers is off by a rounding, and so their standard deviation would be
    if np.ptp(array) <= 1e-12 * np.abs(array).max():
        return Sample(float(array[0]), 0.0 if len(array) > 1 else None, len(array))
    return Sample(float(array.mean()), float(array.std(ddof=1)), len(array))


def published(original: Original) -> Sample | None:
    """What the source gives: its runs, a mean with std and n, or one number, which is one draw. None where it gives none."""
    if original.runs:
        return sample_of(original.runs)
    if original.value is None:
        return None
    if original.n is None or original.n < 2:
        return Sample(original.value, None, 1)
    return Sample(original.value, original.std, original.n)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """First minus second of each seed that has both."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def mean_interval(ours: Sample, confidence: float = SHOWN) -> Interval | None:
    """Of our mean. None of fewer than two runs, as for all intervals here."""
    if not ours.has_spread:
        return None
    assert ours.std is not None
    return _interval(ours.mean, ours.std / math.sqrt(ours.n), ours.n - 1, confidence)


def difference_interval(ours: Sample, theirs: Sample, confidence: float = JUDGED) -> Interval | None:
    """Welch's where the source has a spread, else the prediction interval around its one number."""
    if theirs.has_spread:
        return welch_interval(ours, theirs, confidence)
    return prediction_interval(ours, theirs.mean, confidence)


def welch_interval(ours: Sample, theirs: Sample, confidence: float = JUDGED) -> Interval | None:
    """Of the difference of two means with unequal variances; degrees of freedom by Satterthwaite (1946), Welch (1947)."""
    if not (ours.has_spread and theirs.has_spread):
        return None
    assert ours.std is not None and theirs.std is not None
    errors = ours.std**2 / ours.n, theirs.std**2 / theirs.n
    total = sum(errors)
    if total == 0:
        return _interval(ours.mean - theirs.mean, 0.0, 1, confidence)
    share = errors[0] / total
    freedom = 1 / (share**2 / (ours.n - 1) + (1 - share) ** 2 / (theirs.n - 1))
    return _interval(ours.mean - theirs.mean, math.sqrt(total), freedom, confidence)


def prediction_interval(ours: Sample, number: float, confidence: float = JUDGED) -> Interval | None:
    """Of our mean minus one more draw: ``s * sqrt(1 + 1/n)``, n - 1 degrees of freedom.

    A published single run is no true mean: it is as far off as any of our own runs.
    """
    if not ours.has_spread:
        return None
    assert ours.std is not None
    return _interval(ours.mean - number, ours.std * math.sqrt(1 + 1 / ours.n), ours.n - 1, confidence)


def _interval(centre: float, error: float, freedom: float, confidence: float) -> Interval:
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes a second to import

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(centre - half, centre + half)
