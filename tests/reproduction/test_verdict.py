"""Verdicts: each rule by an example."""

import json
import math
from typing import Any

import numpy as np
import pytest
from handmade_claims import claim_of, seeded
from scipy import stats

from lightning_modules.reproduction.claim import Verdict
from lightning_modules.reproduction.verdict import Judgement, judge, margin

ARMS = [{"name": "a"}, {"name": "b"}]
THREE = [*ARMS, {"name": "c"}]
T2 = 2.919986  # 95 % quantile of Student's t with 2 degrees of freedom


def verdict(*ours: float, **claim: Any) -> Verdict:
    return judge(claim_of(**claim), {"": seeded(*ours)}).verdict


def order(*arms: tuple[float, ...], **claim: Any) -> Judgement:
    names = [arm["name"] for arm in THREE][: len(arms)]
    made = claim_of(kind="ordering", arms=THREE[: len(arms)], **claim)
    return judge(made, {name: seeded(*values) for name, values in zip(names, arms, strict=True)})


def test_an_example_by_hand_against_one_number() -> None:
    found = judge(claim_of(value=92.5, seeds=[42, 43, 44]), {"": seeded(91, 92, 93)})
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
    found = judge(claim_of(runs=[94.0, 95.0, 96.0]), {"": seeded(91, 92, 93)})
    half = 2.131847 * math.sqrt(2 / 3)  # both variances 1, both n 3: 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((-3 - half, -3 + half), rel=1e-6)
    assert (found.verdict, found.tolerance) == ("NOT_REPRODUCED", 2.0)
    assert "Welch" in found.method


@pytest.mark.parametrize(
    ("ours", "better", "expected"),
    [
        ((92.4, 92.6, 92.5), "higher", "REPRODUCED"),
        ((91.0, 94.0, 92.9), "higher", "CONSISTENT"),
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
    assert verdict(*ours, runs=theirs, tolerance={"value": 1, "why": "a point"}) == "CONSISTENT"


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
        ({"kind": "ordering", "arms": ARMS}, None, "none"),
    ],
)
def test_the_tolerance_is_the_claims_or_twice_the_spread_or_a_point_or_a_percent(
    claim: dict[str, Any], tolerance: float | None, why: str
) -> None:
    found = margin(claim_of(**claim))
    assert found[0] == pytest.approx(tolerance)
    assert why in found[1]


@pytest.mark.filterwarnings("error")
def test_seeds_that_all_give_one_value_are_judged_without_a_warning() -> None:
    assert verdict(31.5, 31.5, 31.5, value=31.5) == "REPRODUCED"
    assert verdict(32.5, 32.5, 32.5, value=31.5) == "REPRODUCED"  # at the very edge of one point
    assert verdict(93.3, 93.3, 93.3, value=92.3) == "REPRODUCED"  # where 93.3 - 92.3 is a rounding above 1
    assert verdict(32.6, 32.6, 32.6, value=31.5) == "BETTER"
    assert "same value" in judge(claim_of(value=31.5), {"": seeded(31.5, 31.5, 31.5)}).reason


@pytest.mark.filterwarnings("error")
def test_with_a_tolerance_of_zero_only_the_very_number_is_reproduced() -> None:
    none = {"value": 0, "why": "deterministic"}
    assert verdict(0.3, 0.3, 0.3, value=0.3, tolerance=none) == "REPRODUCED"
    assert verdict(0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2, value=0.3, tolerance=none) == "REPRODUCED"
    assert verdict(0.3, 0.31, 0.29, value=0.3, tolerance=none) == "CONSISTENT"
    assert verdict(0.31, 0.31, 0.31, value=0.3, tolerance=none) == "BETTER"


def test_with_a_tolerance_beyond_all_numbers_everything_is_reproduced() -> None:
    assert verdict(1.0, 50.0, 99.0, value=90, tolerance={"value": 1e4, "why": "any"}) == "REPRODUCED"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ours", [(), (92.5,), (92.5, 92.5)])
def test_fewer_than_three_seeds_are_inconclusive(ours: tuple[float, ...]) -> None:
    found = judge(claim_of(value=92.5), {"": seeded(*ours)})
    assert (found.verdict, found.n) == ("INCONCLUSIVE", len(ours))
    assert f"{len(ours)} of 5 seeds" in found.reason
    assert (found.low is None) == (len(ours) < 2)


def test_failed_seeds_lower_n_and_the_reason_tells() -> None:
    assert "3 of 5 seeds" in judge(claim_of(value=92.5), {"": {42: 92.5, 44: 92.4, 46: 92.6}}).reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_diverged_seed_is_no_failed_seed(value: float) -> None:
    found = judge(claim_of(value=92.5), {"": seeded(92.5, 92.4, value, 92.6)})
    assert (found.verdict, found.n) == ("INCONCLUSIVE", 3)
    assert "seed 44" in found.reason
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_shortened_run_is_inconclusive_but_for_a_curve_at_its_epoch() -> None:
    same = (92.5, 92.4, 92.6)
    assert verdict(*same, value=92.5, shortened="10 of 100 epochs") == "INCONCLUSIVE"
    assert "10 of 100 epochs" in judge(claim_of(value=92.5, shortened="10 of 100 epochs"), {"": seeded(*same)}).reason
    assert verdict(*same, value=92.5, kind="curve", epoch=1, shortened="1 of 100 epochs") == "REPRODUCED"


def test_what_is_invalid_is_invalid_whatever_the_numbers() -> None:
    found = judge(claim_of(value=92.5, shortened="x"), {"": seeded(92.5, 92.4, 92.6)}, invalid="other data")
    assert (found.verdict, found.reason, found.n) == ("INVALID", "other data", 3)
    assert judge(claim_of(kind="ordering", arms=THREE), {}, invalid="other data").verdict == "INVALID"


def test_a_difference_is_paired_by_seed() -> None:
    claim = claim_of(kind="difference", value=2, arms=ARMS)
    first = {42: 60.0, 43: 80.1, 44: 70.0, 45: 99.0}
    second = {44: 68.1, 42: 58.0, 43: 78.0, 46: 1.0}  # the seeds differ by far more than the arms
    found = judge(claim, {"a": first, "b": second})
    assert (found.n, found.ours_mean, found.verdict) == (3, pytest.approx(2.0), "REPRODUCED")
    assert found.ours_std == pytest.approx(0.1)
    assert "3 of 5 pairs" in found.reason
    shuffled = {42: second[43], 43: second[44], 44: second[42]}
    assert judge(claim, {"a": first, "b": shuffled}).verdict == "CONSISTENT"


def test_published_differences_of_single_runs_are_compared_by_welch() -> None:
    claim = claim_of(kind="difference", runs=[9.2, 9.6], arms=ARMS)
    found = judge(claim, {"a": seeded(75, 74, 76), "b": seeded(65, 66, 66.5)})
    scipys = stats.ttest_ind([10, 8, 9.5], [9.2, 9.6], equal_var=False).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high))


def test_the_sign_of_a_difference_is_first_minus_second() -> None:
    claim = {"kind": "difference", "value": 5, "arms": ARMS}
    large = {"a": seeded(70, 70.1, 70.2), "b": seeded(60, 60, 60)}
    assert judge(claim_of(**claim), large).verdict == "BETTER"
    assert judge(claim_of(**claim, better="lower"), large).verdict == "NOT_REPRODUCED"
    assert judge(claim_of(**claim), {"a": large["b"], "b": large["a"]}).verdict == "NOT_REPRODUCED"


def test_an_ordering_needs_every_neighbour_in_order() -> None:
    top, middle, low = (75, 74, 76), (65, 66, 65.5), (60, 61, 60.2)
    found = order(top, middle, low)
    assert (found.verdict, found.theirs, found.tolerance) == ("REPRODUCED", None, None)
    scipys = stats.ttest_1samp(np.subtract(middle, low), 0).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high))  # of the closest two
    assert order(top, low, middle).verdict == "NOT_REPRODUCED"
    assert order(top, middle, (64, 66.5, 66)).verdict == "CONSISTENT"
    assert order(top, top).verdict == "CONSISTENT"


def test_one_wide_pair_makes_an_ordering_uncertain_however_far_apart_its_means_are() -> None:
    found = order((69, 61, 65), (60, 60, 60), (58, 57.9, 58.1))
    assert (found.verdict, found.difference) == ("CONSISTENT", pytest.approx(5.0))
    assert "a minus b" in found.reason


def test_the_best_of_a_loss_is_the_lowest() -> None:
    assert order((1.0, 1.1, 1.2), (2.0, 2.1, 2.3), better="lower").verdict == "REPRODUCED"
    assert order((2.0, 2.1, 2.3), (1.0, 1.1, 1.2), better="lower").verdict == "NOT_REPRODUCED"


@pytest.mark.filterwarnings("error")
def test_an_ordering_needs_three_seeds_of_all_arms() -> None:
    for lost in ((60.0, 61.0), (60.0,), ()):
        assert order((75, 74, 76), (65, 66, 65.5), lost).verdict == "INCONCLUSIVE"


def test_an_equivalence_is_broken_by_a_single_seed() -> None:
    claim = claim_of(kind="equivalence", unit=None, tolerance={"value": 1e-6, "why": "rounding"}, arms=THREE)
    one = seeded(0.5, 0.6, 0.7)
    near = {seed: value + 1e-7 for seed, value in one.items()}
    found = judge(claim, {"a": one, "b": one, "c": near})
    assert (found.verdict, found.low, found.high) == ("REPRODUCED", pytest.approx(1e-7), pytest.approx(1e-7))
    found = judge(claim, {"a": one, "b": near, "c": {**near, 44: 0.7 - 2e-6}})
    assert (found.verdict, found.low) == ("NOT_REPRODUCED", pytest.approx(-2e-6))
    assert judge(claim, {"a": one, "b": near, "c": seeded(0.5, 0.6)}).verdict == "INCONCLUSIVE"
    assert judge(claim, {"a": one, "b": near}).verdict == "INCONCLUSIVE"


def test_an_arm_that_the_claim_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="other"):
        judge(claim_of(value=1), {"other": seeded(1, 2, 3)})


def test_a_judgement_is_json() -> None:
    for found in (judge(claim_of(value=92.5), {"": seeded(92, 93, 94)}), judge(claim_of(value=92.5), {})):
        plain = found.as_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert set(plain) == set(Judgement.__annotations__)
        assert type(plain["verdict"]) is str
