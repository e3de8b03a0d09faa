"""The intervals behind a verdict, against arithmetic by hand, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_modules.report.t_intervals import (
    Sample,
    difference_interval,
    mean_interval,
    paired_differences,
    prediction_interval,
    summarize,
    welch_interval,
)

T2, T4 = 2.919986, 2.131847  # 95 % quantiles of Student's t with 2 and 4 degrees of freedom, from a printed table
DRAWS = 4000


def of(*values: float) -> Sample:
    found = summarize(values)
    assert found is not None
    return found


def draws(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def within(share: float, nominal: float) -> bool:
    """Whether a share of `DRAWS` is as far from the nominal one as chance puts it (3.5 binomial errors)."""
    return abs(share - nominal) < 3.5 * math.sqrt(nominal * (1 - nominal) / DRAWS)


def test_a_sample_has_the_standard_deviation_of_n_minus_1() -> None:
    assert of(1, 2, 3) == Sample(2.0, 1.0, 3)
    assert of(5) == Sample(5.0, None, 1)
    assert summarize([]) is None


def test_equal_values_have_no_spread_even_where_their_mean_is_rounded() -> None:
    value = 0.1 + 0.2
    assert of(*[value] * 7) == Sample(value, 0.0, 7)
    assert of(0.0, 0.0) == Sample(0.0, 0.0, 2)


def test_pairs_are_the_seeds_that_both_have() -> None:
    assert paired_differences({3: 1.0, 1: 5.0, 2: 4.0}, {1: 2.0, 2: 2.5, 9: 0.0}) == {1: 3.0, 2: 1.5}


def test_welch_by_hand() -> None:
    half = T4 * math.sqrt(1 / 3 + 1 / 3)  # both variances 1, both n 3: 4 degrees of freedom
    assert welch_interval(of(1, 2, 3), of(4, 5, 6)) == pytest.approx((-3 - half, -3 + half), rel=1e-6)


def test_welch_by_hand_with_unequal_variances() -> None:
    # variances 1 and 4, n 3: error² 1/3 + 4/3 = 5/3; freedom (5/3)² / ((1/3)²/2 + (4/3)²/2) = (25/9) / (17/18) = 50/17
    half = stats.t.ppf(0.95, 50 / 17) * math.sqrt(5 / 3)
    assert welch_interval(of(1, 2, 3), of(2, 4, 6)) == pytest.approx((-2 - half, -2 + half), rel=1e-9)


def test_the_prediction_interval_by_hand() -> None:
    half = T2 * 1.0 * math.sqrt(1 + 1 / 3)
    assert prediction_interval(of(1, 2, 3), 2.5) == pytest.approx((-0.5 - half, -0.5 + half), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "ratio"), [(3, 10, 1.0), (5, 2, 4.0), (10, 10, 0.1), (4, 30, 20.0)])
def test_welch_is_scipys(n: int, m: int, ratio: float) -> None:
    ours, theirs = 92 + draws(n, n), 93 + ratio * draws(m + 100, m)
    scipys = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.90)
    assert welch_interval(of(*ours), of(*theirs)) == pytest.approx((scipys.low, scipys.high), rel=1e-9)


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_the_interval_of_a_mean_is_scipys(confidence: float) -> None:
    values = draws(1, 6)
    scipys = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean_interval(of(*values), confidence) == pytest.approx((scipys.low, scipys.high), rel=1e-9)


def test_a_published_spread_calls_for_welch_and_a_lone_number_for_the_prediction_interval() -> None:
    ours, theirs = of(1, 2, 3), Sample(2.5, 0.7, 4)
    assert difference_interval(ours, theirs) == welch_interval(ours, theirs)
    assert difference_interval(ours, Sample(2.5, None, 1)) == prediction_interval(ours, 2.5)


@pytest.mark.filterwarnings("error")
def test_constant_samples_give_an_interval_without_width_and_no_warning() -> None:
    flat = of(2.0, 2.0, 2.0)
    assert welch_interval(flat, Sample(1.5, 0.0, 4)) == (0.5, 0.5)
    assert prediction_interval(flat, 1.5) == (0.5, 0.5)
    assert mean_interval(flat) == (2.0, 2.0)
    half = stats.t.ppf(0.95, 3) * 0.3 / math.sqrt(4)  # the freedom is theirs alone
    assert welch_interval(flat, Sample(2.0, 0.3, 4)) == pytest.approx((-half, half))


@pytest.mark.filterwarnings("error")
def test_one_run_has_no_interval() -> None:
    assert mean_interval(of(1)) is None
    assert prediction_interval(of(1), 2.0) is None
    assert welch_interval(of(1), of(1, 2, 3)) is None
    assert welch_interval(of(1, 2, 3), of(1)) is None


@pytest.mark.parametrize("n", [3, 5, 10])
def test_nine_of_ten_prediction_intervals_hold_the_difference_to_a_run_of_the_same_kind(n: int) -> None:
    intervals = [
        prediction_interval(of(*ours), number)
        for ours, number in zip(draws(n, DRAWS, n), draws(n + 50, DRAWS), strict=True)
    ]
    assert within(float(np.mean([found is not None and found.low <= 0 <= found.high for found in intervals])), 0.90)


def test_the_mean_instead_of_one_more_draw_would_hold_far_less() -> None:
    intervals = [
        (mean_interval(of(*ours), 0.90), x) for ours, x in zip(draws(5, DRAWS, 5), draws(55, DRAWS), strict=True)
    ]
    assert np.mean([found is not None and found.low <= x <= found.high for found, x in intervals]) < 0.70


def test_nine_of_ten_welch_intervals_hold_the_true_difference() -> None:
    pairs = zip(92 + draws(7, DRAWS, 5), 91 + 2 * draws(8, DRAWS, 10), strict=True)
    intervals = [welch_interval(of(*ours), of(*theirs)) for ours, theirs in pairs]
    share = float(np.mean([found is not None and found.low <= 1 <= found.high for found in intervals]))
    assert abs(share - 0.90) < 0.02  # Welch's is an approximation
