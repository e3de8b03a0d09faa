"""Student's t intervals of the difference between our runs and a published result (ours minus theirs).

A 90 % interval inside ±δ is equivalent to two one-sided tests at 5 % (TOST, Schuirmann 1987): the conclusion "the
difference is smaller than δ" is wrong in at most 5 % of cases.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_modules.report.statistics import Interval

MIN_RUNS_FOR_WELCH = 3  # published runs
DIFFERENCE_CONFIDENCE, MEAN_CONFIDENCE = 0.90, 0.95  # confidence of the judged difference, and of our own mean


@dataclass(frozen=True)
class Sample:
    """Mean, standard deviation (None if unknown) and number of some runs."""

    mean: float
    std: float | None
    n: int

    @property
    def has_spread(self) -> bool:
        """Whether an interval of the mean can be computed."""
        return self.n > 1 and self.std is not None


def summarize(values: Sequence[float]) -> Sample | None:
    """Mean and standard deviation (n - 1) of `values`; None without values. Equal values have a deviation of exactly 0."""
    if not len(values):
        return None
    array = np.asarray(values, dtype=float)
    # avoid the rounding error in the mean and deviation of equal numbers
    if np.ptp(array) <= 1e-12 * np.abs(array).max():
        return Sample(float(array[0]), 0.0 if len(array) > 1 else None, len(array))
    return Sample(float(array.mean()), float(array.std(ddof=1)), len(array))


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """First minus second, for each seed that has both."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def mean_interval(ours: Sample, confidence: float = MEAN_CONFIDENCE) -> Interval | None:
    """Interval of our mean. As all intervals here, None for fewer than two runs."""
    if not ours.has_spread:
        return None
    assert ours.std is not None
    return _t_interval(ours.mean, ours.std / math.sqrt(ours.n), ours.n - 1, confidence)


def difference_interval(ours: Sample, theirs: Sample) -> Interval | None:
    """Interval of the difference of means: Welch's if the spread is published, otherwise a prediction interval.

    Two published runs have too few degrees of freedom for Welch's approximation; their spread is pooled with ours.
    """
    if theirs.n == MIN_RUNS_FOR_WELCH - 1 and theirs.has_spread:
        return pooled_interval(ours, theirs)
    if theirs.has_spread:
        return welch_interval(ours, theirs)
    return prediction_interval(ours, theirs.mean, theirs.n)


def welch_interval(ours: Sample, theirs: Sample) -> Interval | None:
    """Difference of two means with unequal variances; degrees of freedom by Satterthwaite (1946), Welch (1947)."""
    if not (ours.has_spread and theirs.has_spread):
        return None
    return welch_satterthwaite_interval(ours.mean - theirs.mean, [ours, theirs])


def pooled_interval(ours: Sample, theirs: Sample) -> Interval | None:
    """Difference of two means with a common variance (Student)."""
    if not (ours.has_spread and theirs.has_spread):
        return None
    assert ours.std is not None and theirs.std is not None
    freedom = ours.n + theirs.n - 2
    variance = ((ours.n - 1) * ours.std**2 + (theirs.n - 1) * theirs.std**2) / freedom
    error = math.sqrt(variance * (1 / ours.n + 1 / theirs.n))
    return _t_interval(ours.mean - theirs.mean, error, freedom)


def welch_satterthwaite_interval(centre: float, samples: Sequence[Sample]) -> Interval:
    """Interval around `centre`, whose variance is the sum of the variances of independent means."""
    errors = [(float(sample.std or 0.0) ** 2 / sample.n, sample.n - 1) for sample in samples]
    total = sum(square for square, _ in errors)
    if total == 0:
        return _t_interval(centre, 0.0, 1)
    freedom = 1 / sum((square / total) ** 2 / free for square, free in errors)
    return _t_interval(centre, math.sqrt(total), freedom)


def prediction_interval(ours: Sample, number: float, runs: int = 1) -> Interval | None:
    """Our mean minus the mean of `runs` further runs: ``s * sqrt(1/n + 1/runs)``, n - 1 degrees of freedom.

    A single published run is not a true mean: it varies as much as any of our own runs.
    """
    if not ours.has_spread:
        return None
    assert ours.std is not None
    return _t_interval(ours.mean - number, ours.std * math.sqrt(1 / ours.n + 1 / runs), ours.n - 1)


def unpaired_prediction_interval(
    ours: Sample, arms: tuple[float, float], number: float, runs: int = 1
) -> Interval | None:
    """Our mean difference, paired by seed, minus a published difference of two arms with `runs` runs each.

    Pairing cancels what our arms share by seed; the published arms may share nothing, so their difference has the sum of
    both variances. The variance is a quadratic form in the arms' covariance matrix; its degrees of freedom follow from
    matching the first two moments (Satterthwaite 1946), ``(n - 1) tr(M)^2 / tr(M^2)``.

    Args:
        ours: the paired differences.
        arms: the standard deviations of our two arms.
    """
    if not ours.has_spread:
        return None
    assert ours.std is not None
    first, second = arms[0] ** 2, arms[1] ** 2
    shared = (first + second - ours.std**2) / 2
    weights = np.array([[1, -1], [-1, 1]]) / ours.n + np.eye(2) / runs
    form = weights @ np.array([[first, shared], [shared, second]])
    variance = float(np.trace(form))
    if variance == 0:
        return _t_interval(ours.mean - number, 0.0, 1)
    freedom = (ours.n - 1) * variance**2 / float(np.trace(form @ form))
    return _t_interval(ours.mean - number, math.sqrt(variance), freedom)


def _t_interval(centre: float, error: float, freedom: float, confidence: float = DIFFERENCE_CONFIDENCE) -> Interval:
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes a second to import

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(centre - half, centre + half)
