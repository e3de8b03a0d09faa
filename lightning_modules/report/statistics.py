"""Statistics for a few seeds: BCa bootstrap interval, paired sign-flip test, and Holm's correction."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE, ALPHA = 0.95, 0.05
RESAMPLES = 9999  # bootstrap resamples
MIN_FOR_INTERVAL = 3  # resamples of two values have only three different means
MAX_EXACT_PAIRS = 16  # pairs up to which all 2**n sign patterns are enumerated
SIGN_DRAWS = 99_999  # random sign patterns beyond that; p is then at least 1e-5
_BLOCK_ROWS, _BLOCK_NUMBERS = 64, 300_000  # samples per call, numbers per block: a block should fit the CPU cache


class Interval(NamedTuple):
    low: float
    high: float


def bca_intervals(samples: Sequence[Sequence[float]]) -> list[Interval | None]:
    """The 95 % bootstrap interval of each sample's mean, bias-corrected and accelerated (Efron 1987), by scipy.

    Samples of the same length share their resamples, drawn with a fixed seed, so an interval does not depend on the other
    samples. Fewer than 3 values have no interval; equal values have one of zero width, which says nothing of other seeds.
    """
    found: list[Interval | None] = [None] * len(samples)
    for indices, block in _equal_length_blocks(samples):
        if block.shape[1] < MIN_FOR_INTERVAL:
            continue
        flat = np.ptp(block, axis=1) <= 1e-12 * np.abs(block).max(axis=1)
        for index, row in zip(indices[flat], block[flat], strict=True):
            found[index] = Interval(float(row.min()), float(row.max()))
        if not flat.all():
            for index, low, high in zip(indices[~flat], *_bca(block[~flat]), strict=True):
                found[index] = Interval(float(low), float(high)) if math.isfinite(low + high) else None
    return found


def _bca(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends [G] of the samples in `block` [G, N]."""
    from scipy.stats import bootstrap

    result = bootstrap(
        (block,), np.mean, axis=-1, vectorized=True, method="BCa", confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
        batch=max(1, _BLOCK_NUMBERS // block.size), rng=np.random.default_rng(0),
    )  # fmt: skip
    return result.confidence_interval.low, result.confidence_interval.high


def sign_flip_p(differences: Sequence[Sequence[float]]) -> list[float | None]:
    """Two-sided p-value of each sample of paired differences under random signs, by scipy; None without a pair.

    Exact up to 16 pairs (all 2**n sign patterns), otherwise from 99,999 random ones with a fixed seed.
    """
    from scipy.stats import permutation_test

    found: list[float | None] = [None] * len(differences)
    for indices, block in _equal_length_blocks(differences):
        pairs = block.shape[1]
        if pairs < 2:  # which scipy rejects; both signs of a single pair are equally extreme
            for index in indices:
                found[index] = smallest_p(1) if pairs else None
            continue
        result = permutation_test(
            (block,), np.mean, permutation_type="samples", vectorized=True, axis=-1, alternative="two-sided",
            n_resamples=np.inf if pairs <= MAX_EXACT_PAIRS else SIGN_DRAWS,
            batch=max(1, _BLOCK_NUMBERS // block.size), rng=np.random.default_rng(0),
        )  # fmt: skip
        for index, p in zip(indices, result.pvalue, strict=True):
            found[index] = float(p)
    return found


def _equal_length_blocks(samples: Sequence[Sequence[float]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """At most 64 samples of the same length at a time, as (their positions [G], their values [G, N])."""
    of_length: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        of_length.setdefault(len(sample), []).append(index)
    for indices in of_length.values():
        for start in range(0, len(indices), _BLOCK_ROWS):
            part = indices[start : start + _BLOCK_ROWS]
            yield np.array(part), np.array([samples[i] for i in part], dtype=float)


def holm(p_values: Iterable[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979): the k-th smallest of m times m - k + 1, kept monotone. None marks a missing test."""
    values = list(p_values)
    order = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[index] = highest
    return corrected


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p-value that so many pairs can give: 2 of 2**pairs sign patterns."""
    return min(1.0, 2.0 ** (1 - pairs))


def min_pairs(comparisons: int = 1) -> int:
    """The smallest number of pairs with which p can fall below 0.05 after Holm's correction for so many comparisons."""
    return next(pairs for pairs in range(1, 64) if smallest_p(pairs) * comparisons < ALPHA)
