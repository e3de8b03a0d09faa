"""Evidence for or against a claim from its values alone, with one function for each kind of claim.

Longer than 200 lines, as the kinds share their intervals and explanations."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from lightning_modules.report.numbers import number_formatter
from lightning_modules.report.statistics import Interval
from lightning_modules.report.t_intervals import (
    DIFFERENCE_CONFIDENCE,
    MIN_RUNS_FOR_WELCH,
    Sample,
    difference_interval,
    mean_interval,
    paired_differences,
    summarize,
    unpaired_prediction_interval,
    welch_satterthwaite_interval,
)
from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict

DIVERGED_ABOVE = 1e100  # a larger loss is as good as infinite; its square overflows
MAX_WIDTH = 4  # in tolerances: a wider interval is too wide for CONSISTENT
MAX_SEEDS = 1000
IntervalFunction = Callable[[Sample], Interval | None]  # interval of the difference to the paper, given our sample


@dataclass(frozen=True)
class Evidence:
    """Our sample, the interval that is judged, and the verdict it supports (INCONCLUSIVE without an interval).

    Attributes:
        ours: our seeds; for claims with arms, the differences between two of them.
        explanation: start of the sentence that explains the verdict.
    """

    ours: Sample | None
    theirs: float | None
    interval: Interval | None
    method: str
    verdict: Verdict = Verdict.INCONCLUSIVE
    explanation: str = ""


@dataclass(frozen=True)
class ArmPair:
    """Two arms paired by seed: `differences` are first minus second, `interval` is the 90 % interval of their mean."""

    first: str
    second: str
    differences: Mapping[int, float]
    sample: Sample | None
    interval: Interval | None


def weigh_evidence(claim: Claim, values: SeedValues, tolerance: float | None) -> Evidence:
    """Weigh `values`; for claims with arms, only seeds that all arms have are used."""
    if claim.kind == "ordering":
        return _ordering_evidence(claim, consecutive_pairs(claim, values))
    assert tolerance is not None  # all other kinds have one
    if claim.kind == "equivalence":
        return _equivalence_evidence(claim, pairs_with_first(claim, values), tolerance)
    if claim.kind == "difference":
        return _difference_evidence(claim, values, tolerance)
    return _absolute_evidence(claim, summarize(list(values.get("", {}).values())), tolerance)


def drop_nonfinite(values: SeedValues) -> dict[str, dict[int, float]]:
    """Drop NaN, infinite and diverged values."""
    return {arm: {seed: v for seed, v in of_arm.items() if abs(v) < DIVERGED_ABOVE} for arm, of_arm in values.items()}


def consecutive_pairs(claim: Claim, values: SeedValues) -> list[ArmPair]:
    """Each arm minus the next."""
    whole = common_seed_values(claim, values)
    return [_make_pair(whole, first, second) for first, second in pairwise(claim.arm_names)]


def pairs_with_first(claim: Claim, values: SeedValues) -> list[ArmPair]:
    """Each other arm minus the first."""
    whole = common_seed_values(claim, values)
    return [_make_pair(whole, other, claim.arm_names[0]) for other in claim.arm_names[1:]]


def common_seed_values(claim: Claim, values: SeedValues) -> dict[str, dict[int, float]]:
    """The values of those seeds that all arms have."""
    seeds = set.intersection(*(set(values.get(arm, {})) for arm in claim.arm_names))
    return {arm: {seed: values[arm][seed] for seed in sorted(seeds)} for arm in claim.arm_names if seeds}


def _make_pair(values: SeedValues, first: str, second: str) -> ArmPair:
    differences = paired_differences(values.get(first, {}), values.get(second, {}))
    sample = summarize(list(differences.values()))
    return ArmPair(first, second, differences, sample, mean_interval(sample, DIFFERENCE_CONFIDENCE) if sample else None)


def _absolute_evidence(claim: Claim, ours: Sample | None, tolerance: float) -> Evidence:
    theirs = _require_published(claim)
    if theirs.has_spread:
        method = f"90 % interval of the difference to the mean of {theirs.n} published runs ({_test_name(theirs)})"
    else:
        method = f"90 % prediction interval: {_describe_single_number(theirs.n)}"
    return _compare_with_published(
        claim, ours, theirs, tolerance, method, lambda sample: difference_interval(sample, theirs)
    )


def _difference_evidence(claim: Claim, values: SeedValues, tolerance: float) -> Evidence:
    """Our arms are paired by seed. Without a published spread, assume the noise of two unpaired arms for the paper."""
    (pair,) = consecutive_pairs(claim, values)
    theirs, ours = _require_published(claim), pair.sample
    method = f"{pair.first} minus {pair.second}, paired by seed; "
    if theirs.has_spread:
        method += f"90 % interval of the difference to the mean of {theirs.n} published runs ({_test_name(theirs)})"
        return _compare_with_published(
            claim, ours, theirs, tolerance, method, lambda sample: difference_interval(sample, theirs)
        )
    arms = [arm for arm in (arm.sample() for arm in claim.arms) if arm is not None]
    if len(arms) == 2 and all(arm.has_spread for arm in arms):
        method += "90 % interval of the difference to that of the published arms' means, which are not paired (Welch)"

        def welch(sample: Sample) -> Interval | None:
            return (
                welch_satterthwaite_interval(sample.mean - theirs.mean, [sample, *arms]) if sample.has_spread else None
            )

        return _compare_with_published(claim, ours, theirs, tolerance, method, welch)
    runs = max(theirs.n, min((arm.n for arm in arms), default=1) if len(arms) == 2 else 1)
    whole = common_seed_values(claim, values)
    stds = [
        sample.std for sample in (summarize(list(whole.get(arm, {}).values())) for arm in claim.arm_names) if sample
    ]
    method += f"90 % prediction interval with the variance of unpaired arms: {_describe_single_number(runs)}"

    def unpaired(sample: Sample) -> Interval | None:
        first, second = (std or 0.0 for std in stds)
        return unpaired_prediction_interval(sample, (first, second), theirs.mean, runs=runs)

    return _compare_with_published(claim, ours, theirs, tolerance, method, unpaired)


def _require_published(claim: Claim) -> Sample:
    theirs = claim.sample()
    assert theirs is not None  # required by the schema
    return theirs


def _test_name(theirs: Sample) -> str:
    return "Welch" if theirs.n >= MIN_RUNS_FOR_WELCH else "Student, with one variance"


def _describe_single_number(runs: int) -> str:
    if runs > 1:
        return f"the published number is a mean of {runs} runs, assumed to vary like ours"
    return "the published number is a single run"


def _compare_with_published(
    claim: Claim, ours: Sample | None, theirs: Sample, tolerance: float, method: str, interval_of: IntervalFunction
) -> Evidence:
    interval = interval_of(ours) if ours else None
    if ours is None or interval is None:
        return Evidence(ours, theirs.mean, None, method)
    slack = 1e-12 * max(abs(ours.mean), abs(theirs.mean))
    verdict = _verdict_from_interval(interval, tolerance, claim.better, slack)
    write = number_formatter(claim.unit, ours.mean, theirs.mean)
    low, high = (write(end, sign=True) for end in interval)
    explanation = f"The 90 % interval of the difference, [{low}, {high}], "
    explanation += _EXPLANATIONS[verdict].format(
        tolerance=write(tolerance), better=claim.better, excluded=write(largest_not_excluded(interval))
    )
    if verdict is Verdict.INCONCLUSIVE and interval.low == interval.high:
        explanation = _NO_SPREAD
    elif verdict is Verdict.INCONCLUSIVE:
        explanation += "; " + _seeds_needed(
            ours,
            lambda more: _is_conclusive(
                interval_of(more), lambda i: _verdict_from_interval(i, tolerance, claim.better, slack)
            ),
        )
    elif ours.std == 0:
        explanation += "; all our seeds have the same value"
    return Evidence(ours, theirs.mean, interval, method, verdict, explanation)


_NO_SPREAD = (
    "All seeds have the same value, so their spread is unknown and the interval has zero width: "
    "check that the seed controls the randomness of the run"
)
_EXPLANATIONS = {
    Verdict.REPRODUCED: "is within the tolerance of ±{tolerance}",
    Verdict.CONSISTENT: "contains 0, extends beyond the tolerance of ±{tolerance} and excludes differences above {excluded}",
    Verdict.BETTER: "is on the better side of the published number ({better} is better)",
    Verdict.NOT_REPRODUCED: "is on the worse side of the published number ({better} is better)",
    Verdict.INCONCLUSIVE: f"is too wide: it does not exclude a difference of {{excluded}}, "
    f"more than {MAX_WIDTH} tolerances of ±{{tolerance}}",
}


def largest_not_excluded(interval: Interval) -> float:
    """The largest difference, of either sign, that an interval contains."""
    return max(abs(interval.low), abs(interval.high))


def _verdict_from_interval(interval: Interval, tolerance: float, better: str, slack: float) -> Verdict:
    """`slack` allows for the rounding error of differences that equal 0 or the tolerance."""
    if interval.low == interval.high:
        return Verdict.INCONCLUSIVE
    if -tolerance - slack <= interval.low and interval.high <= tolerance + slack:
        return Verdict.REPRODUCED
    if interval.low <= slack and interval.high >= -slack:
        return Verdict.CONSISTENT if largest_not_excluded(interval) <= MAX_WIDTH * tolerance else Verdict.INCONCLUSIVE
    return Verdict.BETTER if (interval.low > 0) == (better == "higher") else Verdict.NOT_REPRODUCED


def _is_conclusive(interval: Interval | None, verdict_of: Callable[[Interval], Verdict]) -> bool:
    return interval is not None and verdict_of(interval) is not Verdict.INCONCLUSIVE


def _seeds_needed(ours: Sample, is_firm: Callable[[Sample], bool]) -> str:
    """The number of seeds needed for a verdict if the mean and standard deviation stay the same."""
    if not is_firm(replace(ours, n=MAX_SEEDS)):
        return f"even {MAX_SEEDS} seeds with this spread would not suffice, as the published number is itself uncertain"
    found = ours.n + 1 + bisect_left(range(ours.n + 1, MAX_SEEDS), True, key=lambda n: is_firm(replace(ours, n=n)))
    return f"about {found} seeds with this spread are needed"


def _ordering_evidence(claim: Claim, pairs: list[ArmPair]) -> Evidence:
    """REPRODUCED requires every consecutive pair in order and needs no correction for their number; one pair in the wrong
    order suffices for NOT_REPRODUCED, which is therefore corrected (Bonferroni)."""
    method = "90 % interval of each arm minus the next, paired by seed"
    if any(pair.interval is None for pair in pairs):
        return Evidence(pairs[0].sample, None, None, method)
    if any(pair.sample is not None and pair.sample.std == 0 for pair in pairs):
        pair = next(pair for pair in pairs if pair.sample is not None and pair.sample.std == 0)
        return Evidence(pair.sample, None, pair.interval, method, explanation=_NO_SPREAD)
    strict = 1 - (1 - DIFFERENCE_CONFIDENCE) / len(pairs)
    closest = min(pairs, key=lambda pair: _orient(pair.interval, claim.better).low)
    wrong = min(pairs, key=lambda pair: _orient(_interval_at(pair, strict), claim.better).high)
    if _orient(_interval_at(wrong, strict), claim.better).high < 0:
        verdict, pair, interval = Verdict.NOT_REPRODUCED, wrong, _interval_at(wrong, strict)
        explanation = f"{{}} is worse than {{}} (the {100 * strict:.3g} % interval excludes 0)"
    elif (low := _orient(closest.interval, claim.better).low) > 0:
        verdict, pair, interval = Verdict.REPRODUCED, closest, closest.interval
        explanation = "Each arm is better than the next (90 % intervals exclude 0); the closest are {} and {}"
    else:
        verdict, pair, interval = Verdict.CONSISTENT, closest, closest.interval
        write, limit = number_formatter(claim.unit, low), default_tolerance(claim)
        explanation = (
            f"The 90 % interval of {{}} minus {{}} contains 0 and does not exclude {write(-low)} in the wrong direction"
        )
        if limit is not None and -low > MAX_WIDTH * limit:
            verdict, sample = Verdict.INCONCLUSIVE, pair.sample
            assert sample is not None
            needed = _seeds_needed(
                sample,
                lambda more: _orient(mean_interval(more, DIFFERENCE_CONFIDENCE), claim.better).low > -MAX_WIDTH * limit,
            )
            explanation += f", more than {MAX_WIDTH} times {write(limit)}; {needed}"
    return Evidence(pair.sample, None, interval, method, verdict, explanation.format(pair.first, pair.second))


def default_tolerance(claim: Claim) -> float | None:
    """The claim's tolerance; by default one point for percentages, otherwise 1 % of the largest published value."""
    if claim.tolerance:
        return claim.tolerance.value
    if claim.unit == "%":
        return 1.0
    values = [abs(theirs.mean) for part in claim.arms or (claim,) if (theirs := part.sample()) is not None]
    return 0.01 * max(values) if values else None


def _interval_at(pair: ArmPair, confidence: float) -> Interval | None:
    return mean_interval(pair.sample, confidence) if pair.sample else None


def _orient(interval: Interval | None, better: str) -> Interval:
    assert interval is not None
    low, high = interval
    return Interval(low, high) if better == "higher" else Interval(-high, -low)


def _equivalence_evidence(claim: Claim, pairs: list[ArmPair], tolerance: float) -> Evidence:
    """Neither a seed of any arm nor the 90 % interval of an arm's mean difference may exceed the tolerance."""
    method = f"smallest and largest difference of any seed to {claim.arm_names[0]}, and the 90 % interval of the mean"
    if not pairs[0].differences:
        return Evidence(None, None, None, method)
    pair = max(pairs, key=lambda pair: max(map(abs, pair.differences.values())))
    ends = Interval(min(pair.differences.values()), max(pair.differences.values()))
    largest = largest_not_excluded(ends)
    write = number_formatter(claim.unit, largest, tolerance)
    where = "within" if largest <= tolerance else "beyond"
    explanation = f"{pair.first} and {pair.second} differ by at most {write(largest)}, "
    explanation += f"{where} the tolerance of {write(tolerance)}"
    verdict = Verdict.REPRODUCED if largest <= tolerance else Verdict.NOT_REPRODUCED
    means = max(largest_not_excluded(other.interval) for other in pairs if other.interval) if pair.interval else 0.0
    if largest <= tolerance < means:
        verdict = Verdict.CONSISTENT
        explanation += f", but the 90 % interval of the mean does not exclude {write(means)}"
    return Evidence(pair.sample, None, ends, method, verdict, explanation)
