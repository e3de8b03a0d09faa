"""Verdicts: each rule by an example."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from claim_builder import make_claim, values_by_seed
from scipy import stats

from lightning_modules.reproduction.claim import Verdict
from lightning_modules.reproduction.verdict import Judgement, judge, resolve_tolerance

ARMS = [{"name": "a"}, {"name": "b"}]
VALUED = [{"name": "a", "value": 0.9}, {"name": "b", "value": 0.89}]
THREE = [*ARMS, {"name": "c"}]
T2 = 2.919986  # 95 % quantile of Student's t with 2 degrees of freedom


def verdict(*ours: float, **claim: Any) -> Verdict:
    return judge(make_claim(**claim), {"": values_by_seed(*ours)}).verdict


def order(*arms: tuple[float, ...], **claim: Any) -> Judgement:
    names = [arm["name"] for arm in THREE][: len(arms)]
    made = make_claim(kind="ordering", arms=THREE[: len(arms)], **claim)
    return judge(made, {name: values_by_seed(*values) for name, values in zip(names, arms, strict=True)})


def test_an_example_by_hand_against_one_number() -> None:
    found = judge(make_claim(value=92.5, seeds=[42, 43, 44]), {"": values_by_seed(91, 92, 93)})
    half = T2 * 1.0 * math.sqrt(1 + 1 / 3)  # mean 92, s 1, n 3: one more draw
    assert (found.ours_mean, found.ours_std, found.n, found.theirs, found.difference) == (92, 1, 3, 92.5, -0.5)
    assert (found.low, found.high) == pytest.approx((-0.5 - half, -0.5 + half), rel=1e-6)
    wide = 4.302653 / math.sqrt(3)  # 97.5 % quantile, for the 95 % interval of our mean
    assert found.ours_interval == pytest.approx((92 - wide, 92 + wide), rel=1e-6)
    assert found.verdict == "CONSISTENT"
    assert "prediction" in found.method
    assert "[-3.87, +2.87]" in found.reason
    assert "3 of 3 seeds" in found.reason


def test_an_example_by_hand_against_runs() -> None:
    found = judge(make_claim(runs=[94.0, 95.0, 96.0]), {"": values_by_seed(91, 92, 93)})
    half = 2.131847 * math.sqrt(2 / 3)  # both variances 1, both n 3: 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((-3 - half, -3 + half), rel=1e-6)
    assert (found.verdict, found.tolerance) == ("NOT_REPRODUCED", 2.0)
    assert "Welch" in found.method


@pytest.mark.parametrize(
    ("ours", "better", "expected"),
    [
        ((92.4, 92.6, 92.5), "higher", "REPRODUCED"),
        ((91.5, 93.5, 92.4), "higher", "CONSISTENT"),
        ((91.0, 94.0, 92.9), "higher", "INCONCLUSIVE"),
        ((95.0, 95.1, 95.2), "higher", "BETTER"),
        ((95.0, 95.1, 95.2), "lower", "NOT_REPRODUCED"),
        ((90.0, 90.1, 90.2), "higher", "NOT_REPRODUCED"),
        ((90.0, 90.1, 90.2), "lower", "BETTER"),
        ((92.9, 92.9, 92.91), "higher", "REPRODUCED"),  # better, but by less than the tolerance
    ],
)
def test_the_interval_decides(ours: tuple[float, ...], better: str, expected: str) -> None:
    assert verdict(*ours, value=92.5, better=better) == expected


def test_a_p_above_005_alone_never_says_reproduced() -> None:
    ours, theirs = (80.0, 92.0, 99.0, 85.0, 96.0), [91.0, 83.0, 97.0, 88.0]
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > 0.05
    assert verdict(*ours, runs=theirs, tolerance={"value": 4, "why": "points"}) == "CONSISTENT"


def test_a_difference_that_is_significant_but_inside_the_tolerance_is_reproduced() -> None:
    ours, theirs = (92.50, 92.51, 92.49, 92.50), [92.40, 92.41, 92.39, 92.40]
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue < 0.001
    assert verdict(*ours, runs=theirs, tolerance={"value": 1, "why": "a point"}) == "REPRODUCED"


@pytest.mark.parametrize(
    ("claim", "tolerance", "why"),
    [
        ({"value": 50, "tolerance": {"value": 3, "why": "rounded"}}, 3.0, "rounded"),
        ({"runs": [1.0, 2.0, 3.0]}, 2.0, "twice"),
        ({"value": 50, "std": 0.3, "n": 5}, 0.6, "twice"),
        ({"value": 50}, 1.0, "one point"),
        ({"value": 50, "unit": None}, 0.5, "1 %"),
        ({"value": -50, "unit": "points"}, 0.5, "1 %"),
        ({"runs": [50.0, 50.0]}, 1.0, "spread is 0"),
        ({"value": 0, "unit": None}, 0.0, "1 %"),
        ({"kind": "difference", "value": 9, "arms": ARMS}, 1.0, "one point"),
        ({"kind": "difference", "value": 0.01, "unit": "", "arms": VALUED}, 0.009, "larger published arm"),
        ({"value": 50, "n": 5}, 1.0, "one point"),
        ({"kind": "ordering", "arms": ARMS}, None, "ordering"),
    ],
)
def test_the_tolerance_is_the_claims_or_twice_the_spread_or_a_point_or_a_percent(
    claim: dict[str, Any], tolerance: float | None, why: str
) -> None:
    found = resolve_tolerance(make_claim(**claim))
    assert found[0] == pytest.approx(tolerance)
    assert why in found[1]


@pytest.mark.filterwarnings("error")
def test_an_interval_without_width_gets_no_firm_verdict() -> None:
    none = {"value": 0, "why": "deterministic"}
    for value, tolerance in ((31.5, None), (32.6, None), (31.5, none)):
        found = judge(make_claim(value=value, tolerance=tolerance), {"": values_by_seed(31.5, 31.5, 31.5)})
        assert (found.verdict, found.low) == ("INCONCLUSIVE", found.high)
        assert "All seeds have the same value" in found.reason
    assert verdict(31.5, 31.5, 31.5, value=31.5, std=0.0, n=10) == "INCONCLUSIVE"
    assert verdict(31.5, 31.5, 31.5, value=31.6, std=0.2, n=10, tolerance={"value": 1, "why": "w"}) == "REPRODUCED"
    same = make_claim(kind="difference", value=1, arms=ARMS)  # the same difference of each seed: its arms still vary
    found = judge(same, {"a": values_by_seed(61, 62, 63), "b": values_by_seed(60, 61, 62)})
    assert found.low < 0 < found.high
    assert order((70, 71, 72), (60, 61, 62)).verdict == "INCONCLUSIVE"


@pytest.mark.filterwarnings("error")
def test_a_tolerance_of_zero_is_met_by_no_interval() -> None:
    none = {"value": 0, "why": "deterministic"}
    assert verdict(0.3, 0.31, 0.29, value=0.3, tolerance=none) == "INCONCLUSIVE"
    assert verdict(0.31, 0.3101, 0.3099, value=0.3, tolerance=none) == "BETTER"


def test_consistent_means_that_no_difference_beyond_four_tolerances_is_left() -> None:
    ours = values_by_seed(91.0, 93.0, 92.0)  # half of the 90 % interval is 3.37
    near = judge(make_claim(value=92.0, tolerance={"value": 0.9, "why": "w"}), {"": ours})
    assert near.verdict == "CONSISTENT"
    assert "excludes differences above 3.37" in near.reason
    wide = judge(make_claim(value=92.0, tolerance={"value": 0.8, "why": "w"}), {"": ours})
    assert wide.verdict == "INCONCLUSIVE"
    assert "does not exclude a difference of 3.37, more than 4 tolerances of ±0.80" in wide.reason
    assert "about 4 seeds with this spread are needed" in wide.reason
    half = stats.t.ppf(0.95, 3) * math.sqrt(1 + 1 / 4)
    assert half <= 3.2 < 3.37


def test_where_no_number_of_seeds_would_do_that_is_said() -> None:
    found = judge(make_claim(value=92.0, tolerance={"value": 0.3, "why": "w"}), {"": values_by_seed(91.0, 93.0, 92.0)})
    assert found.verdict == "INCONCLUSIVE"  # 1.64 standard deviations of the one published run remain, more than 1.2
    assert "even 1000 seeds with this spread would not suffice" in found.reason


def test_an_ordering_that_leaves_a_large_reversal_is_inconclusive() -> None:
    wide = order((69, 61, 65), (60, 60, 60.1), (58, 57.9, 58.1))
    assert (wide.verdict, wide.difference) == ("CONSISTENT", pytest.approx(4.97, abs=0.01))
    assert "a minus b contains 0 and does not exclude 1.78 in the wrong direction" in wide.reason
    narrow = order((69, 61, 65), (60, 60, 60.1), (58, 57.9, 58.1), tolerance={"value": 0.4, "why": "w"})
    assert narrow.verdict == "INCONCLUSIVE"
    assert "more than 4 times 0.40; about 4 seeds" in narrow.reason


def test_with_a_tolerance_beyond_all_numbers_everything_is_reproduced() -> None:
    assert verdict(1.0, 50.0, 99.0, value=90, tolerance={"value": 1e4, "why": "any"}) == "REPRODUCED"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ours", [(), (92.5,), (92.5, 92.5)])
def test_fewer_than_three_seeds_are_inconclusive(ours: tuple[float, ...]) -> None:
    found = judge(make_claim(value=92.5), {"": values_by_seed(*ours)})
    assert (found.verdict, found.n) == ("INCONCLUSIVE", len(ours))
    assert f"{len(ours)} of 5 seeds" in found.reason
    assert (found.low is None) == (len(ours) < 2)


def test_failed_seeds_lower_n_and_the_reason_tells() -> None:
    assert "3 of 5 seeds" in judge(make_claim(value=92.5), {"": {42: 92.5, 44: 92.4, 46: 92.6}}).reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_diverged_seed_is_no_failed_seed(value: float) -> None:
    found = judge(make_claim(value=92.5), {"": values_by_seed(92.5, 92.4, value, 92.6)})
    assert (found.verdict, found.n) == ("INCONCLUSIVE", 3)
    assert "seed 44" in found.reason
    json.dumps(asdict(found), allow_nan=False)


def test_a_shortened_run_is_inconclusive_but_for_a_curve_at_its_epoch() -> None:
    same = (92.5, 92.4, 92.6)
    assert verdict(*same, value=92.5, shortened="10 of 100 epochs") == "INCONCLUSIVE"
    assert (
        "10 of 100 epochs"
        in judge(make_claim(value=92.5, shortened="10 of 100 epochs"), {"": values_by_seed(*same)}).reason
    )
    assert verdict(*same, value=92.5, kind="curve", epoch=1, shortened="1 of 100 epochs") == "REPRODUCED"


def test_what_is_invalid_is_invalid_whatever_the_numbers() -> None:
    found = judge(make_claim(value=92.5, shortened="x"), {"": values_by_seed(92.5, 92.4, 92.6)}, invalid="other data")
    assert (found.verdict, found.reason, found.n) == ("INVALID", "other data", 3)
    assert judge(make_claim(kind="ordering", arms=THREE), {}, invalid="other data").verdict == "INVALID"


def test_a_difference_is_paired_by_seed() -> None:
    claim = make_claim(kind="difference", value=2, arms=ARMS)
    first = {42: 60.0, 43: 80.1, 44: 70.0, 45: 99.0}
    second = {44: 68.1, 42: 58.0, 43: 78.0, 46: 1.0}  # the seeds differ by far more than the arms
    found = judge(claim, {"a": first, "b": second})
    assert (found.n, found.ours_mean, found.theirs) == (3, pytest.approx(2.0), 2.0)
    assert found.ours_std == pytest.approx(0.1)
    assert "3 of 5 pairs" in found.reason


def test_a_published_difference_has_the_noise_of_two_unpaired_arms() -> None:
    claim = make_claim(kind="difference", value=2, arms=ARMS)
    values = {
        "a": values_by_seed(60.0, 64.0, 62.0),
        "b": values_by_seed(58.1, 62.0, 59.9),
    }  # our pairs are of 2.0, with 0.1
    found = judge(claim, values)
    covariance = np.cov(values["a"] and list(values["a"].values()), list(values["b"].values()))
    form = (np.array([[1, -1], [-1, 1]]) / 3 + np.eye(2)) @ covariance
    freedom = 2 * np.trace(form) ** 2 / np.trace(form @ form)
    half = stats.t.ppf(0.95, freedom) * math.sqrt(np.trace(form))
    assert (found.low, found.high) == pytest.approx((-half, half))
    assert half > 7  # paired, it would be 0.34
    assert (found.verdict, found.method) == ("INCONCLUSIVE", found.method)
    assert "unpaired arms" in found.method
    five = judge(make_claim(kind="difference", value=2, n=5, arms=ARMS), values)
    assert five.high < 0.5 * half
    assert "mean of 5 runs" in five.method
    arms = [{"name": "a", "value": 62, "std": 0.5, "n": 5}, {"name": "b", "value": 60, "std": 0.4, "n": 5}]
    known = judge(make_claim(kind="difference", value=2, arms=arms), values)  # the paper's own noise, where it gives it
    a, b, c = 0.1**2 / 3, 0.5**2 / 5, 0.4**2 / 5
    freedom = (a + b + c) ** 2 / (a**2 / 2 + b**2 / 4 + c**2 / 4)
    assert known.high == pytest.approx(stats.t.ppf(0.95, freedom) * math.sqrt(a + b + c), rel=1e-6)
    assert known.verdict == "REPRODUCED"


def test_published_differences_of_single_runs_are_compared_by_welch() -> None:
    values = {"a": values_by_seed(75, 74, 76), "b": values_by_seed(65, 66, 66.5)}
    found = judge(make_claim(kind="difference", runs=[9.2, 9.6, 9.3], arms=ARMS), values)
    scipys = stats.ttest_ind([10, 8, 9.5], [9.2, 9.6, 9.3], equal_var=False).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high))
    two = judge(make_claim(kind="difference", runs=[9.2, 9.6], arms=ARMS), values)  # two have no spread of their own
    pooled = stats.ttest_ind([10, 8, 9.5], [9.2, 9.6]).confidence_interval(0.90)
    assert (two.low, two.high) == pytest.approx((pooled.low, pooled.high))


def test_the_spread_over_folds_is_not_taken_for_one_over_seeds() -> None:
    claim = make_claim(value=77.1, std=8.3, n=13, folds=13, spread="folds", tolerance={"value": 3, "why": "w"})
    found = judge(claim, {"": values_by_seed(77.0, 77.4, 77.2)})
    half = T2 * 0.2 * math.sqrt(1 + 1 / 3)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), rel=1e-5)
    assert resolve_tolerance(make_claim(value=77.1, std=8.3, n=13, folds=13, spread="folds"))[0] == 1.0


def test_the_sign_of_a_difference_is_first_minus_second() -> None:
    claim = {"kind": "difference", "value": 5, "arms": ARMS}
    large = {"a": values_by_seed(70, 70.1, 70.2), "b": values_by_seed(60, 60, 60)}
    assert judge(make_claim(**claim), large).verdict == "BETTER"
    assert judge(make_claim(**claim, better="lower"), large).verdict == "NOT_REPRODUCED"
    assert judge(make_claim(**claim), {"a": large["b"], "b": large["a"]}).verdict == "NOT_REPRODUCED"


def test_an_ordering_needs_every_neighbour_in_order() -> None:
    top, middle, low = (75, 74, 76), (65, 66, 65.5), (60, 61, 60.2)
    found = order(top, middle, low)
    assert (found.verdict, found.theirs, found.tolerance) == ("REPRODUCED", None, None)
    scipys = stats.ttest_1samp(np.subtract(middle, low), 0).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high))  # of the closest two
    assert order(top, low, middle).verdict == "NOT_REPRODUCED"
    assert order(top, middle, (64, 66.5, 66)).verdict == "CONSISTENT"
    assert order(top, (75, 74, 76.1)).verdict == "CONSISTENT"


def test_the_wrong_order_of_one_of_three_arms_is_corrected_for_their_number() -> None:
    top, middle, low = (75, 74, 76), (60, 61, 60.2), (61.2, 61.5, 61.4)
    found = order(top, middle, low)  # 0.93 with 0.38: its 90 % interval excludes 0, its 95 % interval does not
    scipys = stats.ttest_1samp(np.subtract(middle, low), 0)
    assert scipys.confidence_interval(0.90).high < 0 < scipys.confidence_interval(0.95).high
    assert found.verdict == "CONSISTENT"
    assert order(middle, low).verdict == "NOT_REPRODUCED"  # of two arms there is nothing to correct


def test_the_best_of_a_loss_is_the_lowest() -> None:
    assert order((1.0, 1.1, 1.2), (2.0, 2.1, 2.3), better="lower").verdict == "REPRODUCED"
    assert order((2.0, 2.1, 2.3), (1.0, 1.1, 1.2), better="lower").verdict == "NOT_REPRODUCED"


@pytest.mark.filterwarnings("error")
def test_an_ordering_needs_three_seeds_of_all_arms() -> None:
    for lost in ((60.0, 61.0), (60.0,), ()):
        assert order((75, 74, 76), (65, 66, 65.5), lost).verdict == "INCONCLUSIVE"


def test_an_equivalence_is_broken_by_a_single_seed() -> None:
    claim = make_claim(kind="equivalence", unit=None, tolerance={"value": 1e-6, "why": "rounding"}, arms=THREE)
    one = values_by_seed(0.5, 0.6, 0.7)
    near = {seed: value + 1e-7 for seed, value in one.items()}
    found = judge(claim, {"a": one, "b": one, "c": near})
    assert (found.verdict, found.low, found.high) == ("REPRODUCED", pytest.approx(1e-7), pytest.approx(1e-7))
    found = judge(claim, {"a": one, "b": near, "c": {**near, 44: 0.7 - 2e-6}})
    assert (found.verdict, found.low) == ("NOT_REPRODUCED", pytest.approx(-2e-6))
    assert judge(claim, {"a": one, "b": near, "c": values_by_seed(0.5, 0.6)}).verdict == "INCONCLUSIVE"
    assert judge(claim, {"a": one, "b": near}).verdict == "INCONCLUSIVE"
    far = {42: 0.5 + 9e-7, 43: 0.6 + 9e-7, 44: 0.7 + 2e-7}  # each inside, but their mean need not be
    found = judge(claim, {"a": one, "b": one, "c": far})
    assert (found.verdict, found.high) == ("CONSISTENT", pytest.approx(9e-7))


def test_an_arm_that_the_claim_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="other"):
        judge(make_claim(value=1), {"other": values_by_seed(1, 2, 3)})


def test_a_judgement_is_json() -> None:
    for found in (judge(make_claim(value=92.5), {"": values_by_seed(92, 93, 94)}), judge(make_claim(value=92.5), {})):
        plain = json.loads(json.dumps(asdict(found), allow_nan=False))
        assert {**plain, "ours_interval": found.ours_interval} == asdict(found)
        assert plain["ours_interval"] == (list(found.ours_interval) if found.ours_interval else None)
        assert type(plain["verdict"]) is str
