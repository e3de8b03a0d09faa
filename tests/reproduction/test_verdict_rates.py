"""How often a verdict is right, by simulation: normal samples of standard deviation 1, theirs of 10 runs or one number."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from claim_builder import make_claim, values_by_seed
from scipy import stats

from lightning_modules.reproduction.claim import Verdict
from lightning_modules.reproduction.verdict import judge

DRAWS = 2000


def judged(shift: float, n: int, theirs: int, tolerance: float | None) -> Iterator[Verdict]:
    """Verdicts of DRAWS pairs of an original and ours, whose true means differ by `shift`."""
    random = np.random.default_rng(round(1000 * shift) + 10 * n + theirs)
    given = {} if tolerance is None else {"tolerance": {"value": tolerance, "why": "fixed"}}
    base = make_claim(value=0, std=1, n=theirs, **given) if theirs > 1 else make_claim(value=0, **given)
    for _ in range(DRAWS):
        original = random.normal(size=theirs)
        drawn = {"value": float(original.mean())} | ({"std": float(original.std(ddof=1))} if theirs > 1 else {})
        ours = values_by_seed(*(shift + random.normal(size=n)))
        yield judge(base.model_copy(update=drawn), {"": ours}).verdict


def share(verdicts: Iterator[Verdict], wanted: Verdict = Verdict.REPRODUCED) -> float:
    return sum(found is wanted for found in verdicts) / DRAWS


def nominal(shift: float, n: int, theirs: int, tolerance: float | None) -> float:
    """The rate of REPRODUCED by theory: the normal difference of means given both variances, averaged over their chi²."""
    steps = (np.arange(400) + 0.5) / 400
    ours_var = (stats.chi2.ppf(steps, n - 1) / (n - 1))[:, None]
    deviation = math.sqrt(1 / n + 1 / theirs)
    if theirs == 1:
        half, delta = stats.t.ppf(0.95, n - 1) * np.sqrt(ours_var * (1 + 1 / n)), np.full((1, 1), tolerance)
    else:
        their_var = (stats.chi2.ppf(steps, theirs - 1) / (theirs - 1))[None, :]
        a, b = ours_var / n, their_var / theirs
        half = stats.t.ppf(0.95, (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (theirs - 1))) * np.sqrt(a + b)
        delta = 2 * np.sqrt(their_var) if tolerance is None else np.full((1, 1), tolerance)
    room = delta - half
    inside = stats.norm.cdf((room - shift) / deviation) - stats.norm.cdf((-room - shift) / deviation)
    return float(np.where(room > 0, inside, 0).mean())


def error(rate: float) -> float:
    return 3.5 * math.sqrt(max(rate * (1 - rate), 1 / DRAWS) / DRAWS)


@pytest.mark.parametrize(
    ("n", "theirs", "tolerance"), [(5, 10, 1.5), (5, 10, 1.0), (10, 10, None), (5, 1, 4.0), (10, 1, 3.0)]
)
def test_the_truly_equal_is_reproduced_at_the_nominal_rate(n: int, theirs: int, tolerance: float | None) -> None:
    expected = nominal(0.0, n, theirs, tolerance)
    assert 0.1 < expected < 0.999  # or it would not show a wrong rate
    assert abs(share(judged(0.0, n, theirs, tolerance)) - expected) < error(expected)


@pytest.mark.parametrize(("n", "theirs", "tolerance"), [(5, 10, 1.5), (10, 10, 3.0), (5, 1, 4.0)])
def test_a_true_difference_of_the_tolerance_is_called_reproduced_once_in_twenty(
    n: int, theirs: int, tolerance: float
) -> None:
    assert share(judged(tolerance, n, theirs, tolerance)) <= 0.05 + error(0.05)


@pytest.mark.parametrize(("n", "theirs", "tolerance"), [(5, 10, 1.5), (10, 10, None), (5, 1, 4.0)])
def test_a_true_difference_of_twice_the_tolerance_is_almost_never_called_reproduced(
    n: int, theirs: int, tolerance: float | None
) -> None:
    shift = 2 * (tolerance or 2.0)  # the usual tolerance is two standard deviations
    assert share(judged(shift, n, theirs, tolerance)) < 0.005


def test_the_truly_equal_is_seldom_called_better_or_not_reproduced() -> None:
    verdicts = list(judged(0.0, 5, 10, 0.1))  # a tolerance that no interval fits into
    for wrong in (Verdict.BETTER, Verdict.NOT_REPRODUCED):
        assert share(iter(verdicts), wrong) <= 0.05 + error(0.05)
