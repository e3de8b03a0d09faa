"""Evidence for or against a claim from its values alone, with one function for each kind of claim.

Longer than 200 lines, as the kinds share their intervals and explanations."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from lightning_modules.report.numbers import format_interval, number_formatter
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
        return _ordering_evidence(claim, arm_pairs(claim, values))
    assert tolerance is not None  # all other kinds have one
    if claim.kind == "equivalence":
        return _equivalence_evidence(claim, arm_pairs(claim, values), tolerance)
    return _compare_with_published(claim, values, tolerance)


def drop_nonfinite(values: SeedValues) -> dict[str, dict[int, float]]:
    """Drop NaN, infinite and diverged values."""
    return {arm: {seed: v for seed, v in of_arm.items() if abs(v) < DIVERGED_ABOVE} for arm, of_arm in values.items()}


def arm_pairs(claim: Claim, values: SeedValues) -> list[ArmPair]:
    """Each arm minus the next; for an equivalence, each other arm minus the first."""
    whole, (first, *others) = common_seed_values(claim, values), claim.arm_names
    names = [(other, first) for other in others] if claim.kind == "equivalence" else pairwise(claim.arm_names)
    return [_make_pair(whole, one, another) for one, another in names]


def common_seed_values(claim: Claim, values: SeedValues) -> dict[str, dict[int, float]]:
    """The values of those seeds that all arms have."""
    seeds = set.intersection(*(set(values.get(arm, {})) for arm in claim.arm_names))
    return {arm: {seed: values[arm][seed] for seed in sorted(seeds)} for arm in claim.arm_names if seeds}


def _make_pair(values: SeedValues, first: str, second: str) -> ArmPair:
    differences = paired_differences(values.get(first, {}), values.get(second, {}))
    sample = summarize(list(differences.values()))
    return ArmPair(first, second, differences, sample, mean_interval(sample, DIFFERENCE_CONFIDENCE) if sample else None)


def _compare_with_published(claim: Claim, values: SeedValues, tolerance: float) -> Evidence:
    """Our value, or the difference of our two arms paired by seed, minus the published number."""
    theirs = claim.sample()
    assert theirs is not None  # required by the schema
    interval_of, method = _interval_method(claim, values, theirs)
    if claim.arms:
        (pair,) = arm_pairs(claim, values)
        ours, method = pair.sample, f"{pair.first} minus {pair.second}, paired by seed; {method}"
    else:
        ours = summarize(list(values.get("", {}).values()))
    interval = interval_of(ours) if ours else None
    if ours is None or interval is None:
        return Evidence(ours, theirs.mean, None, method)
    slack = 1e-12 * max(abs(ours.mean), abs(theirs.mean))  # rounding error of differences that equal 0 or the tolerance

    def verdict_of(interval: Interval) -> Verdict:
        return _verdict_from_interval(interval, tolerance, claim.better, slack)

    verdict, write = verdict_of(interval), number_formatter(claim.unit, ours.mean, theirs.mean)
    explanation = f"The 90 % interval of the difference, {format_interval(interval, write, sign=True)}, "
    explanation += _EXPLANATIONS[verdict].format(
        tolerance=write(tolerance), better=claim.better, excluded=write(largest_not_excluded(interval))
    )
    if verdict is Verdict.INCONCLUSIVE and interval.low == interval.high:
        explanation = _NO_SPREAD
    elif verdict is Verdict.INCONCLUSIVE:
        explanation += "; " + _seeds_needed(
            ours, lambda more: (i := interval_of(more)) is not None and verdict_of(i) is not Verdict.INCONCLUSIVE
        )
    elif ours.std == 0:
        explanation += "; all our seeds have the same value"
    return Evidence(ours, theirs.mean, interval, method, verdict, explanation)


def _interval_method(claim: Claim, values: SeedValues, theirs: Sample) -> tuple[IntervalFunction, str]:
    """How the interval is computed from our sample, and what it is called.

    Our arms are paired by seed. Without a published spread, the paper's are assumed to have the noise of unpaired ones.
    """
    if theirs.has_spread:
        test = "Welch" if theirs.n >= MIN_RUNS_FOR_WELCH else "Student, with one variance"
        method = f"90 % interval of the difference to the mean of {theirs.n} published runs ({test})"
        return lambda ours: difference_interval(ours, theirs), method
    arms = [sample for arm in claim.arms if (sample := arm.sample()) is not None]
    if len(arms) == 2 and all(arm.has_spread for arm in arms):
        return (
            lambda ours: (
                welch_satterthwaite_interval(ours.mean - theirs.mean, [ours, *arms]) if ours.has_spread else None
            ),
            "90 % interval of the difference to that of the published arms' means, which are not paired (Welch)",
        )
    runs = max(theirs.n, min(arm.n for arm in arms) if len(arms) == 2 else 1)
    published = f"a mean of {runs} runs, assumed to vary like ours" if runs > 1 else "a single run"
    if not claim.arms:
        method = f"90 % prediction interval: the published number is {published}"
        return lambda ours: difference_interval(ours, theirs), method
    whole = common_seed_values(claim, values)
    samples = [summarize(list(whole.get(arm, {}).values())) for arm in claim.arm_names]
    first, second = (sample.std or 0.0 if sample else 0.0 for sample in samples)
    return (
        lambda ours: unpaired_prediction_interval(ours, (first, second), theirs.mean, runs=runs),
        f"90 % prediction interval with the variance of unpaired arms: the published number is {published}",
    )


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


def largest_not_excluded(interval: tuple[float, float]) -> float:
    """The largest difference, of either sign, that an interval contains."""
    return max(map(abs, interval))


def _verdict_from_interval(interval: Interval, tolerance: float, better: str, slack: float) -> Verdict:
    if interval.low == interval.high:
        return Verdict.INCONCLUSIVE
    if -tolerance - slack <= interval.low and interval.high <= tolerance + slack:
        return Verdict.REPRODUCED
    if interval.low <= slack and interval.high >= -slack:
        return Verdict.CONSISTENT if largest_not_excluded(interval) <= MAX_WIDTH * tolerance else Verdict.INCONCLUSIVE
    return Verdict.BETTER if (interval.low > 0) == (better == "higher") else Verdict.NOT_REPRODUCED


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
    if equal := next((pair for pair in pairs if pair.sample is not None and pair.sample.std == 0), None):
        return Evidence(equal.sample, None, equal.interval, method, explanation=_NO_SPREAD)
    strict = 1 - (1 - DIFFERENCE_CONFIDENCE) / len(pairs)
    wrong = min(pairs, key=lambda pair: _advantage(pair.sample, claim.better, strict).high)
    if _advantage(wrong.sample, claim.better, strict).high < 0:
        assert wrong.sample is not None
        explanation = f"{wrong.first} is worse than {wrong.second} (the {100 * strict:.3g} % interval excludes 0)"
        interval = mean_interval(wrong.sample, strict)
        return Evidence(wrong.sample, None, interval, method, Verdict.NOT_REPRODUCED, explanation)
    pair = min(pairs, key=lambda pair: _advantage(pair.sample, claim.better).low)
    low = _advantage(pair.sample, claim.better).low
    if low > 0:
        verdict = Verdict.REPRODUCED
        explanation = "Each arm is better than the next (90 % intervals exclude 0); the closest are "
        explanation += f"{pair.first} and {pair.second}"
    else:
        verdict, write, limit = Verdict.CONSISTENT, number_formatter(claim.unit, low), default_tolerance(claim)
        explanation = f"The 90 % interval of {pair.first} minus {pair.second} contains 0 and does not exclude "
        explanation += f"{write(-low)} in the wrong direction"
        if limit is not None and -low > MAX_WIDTH * limit:
            verdict = Verdict.INCONCLUSIVE
            assert pair.sample is not None
            needed = _seeds_needed(pair.sample, lambda more: _advantage(more, claim.better).low > -MAX_WIDTH * limit)
            explanation += f", more than {MAX_WIDTH} times {write(limit)}; {needed}"
    return Evidence(pair.sample, None, pair.interval, method, verdict, explanation)


def _advantage(sample: Sample | None, better: str, confidence: float = DIFFERENCE_CONFIDENCE) -> Interval:
    """The interval of a pair's mean difference, positive where the first arm is better."""
    interval = mean_interval(sample, confidence) if sample else None
    assert interval is not None
    return interval if better == "higher" else Interval(-interval.high, -interval.low)


def default_tolerance(claim: Claim) -> float | None:
    """The claim's tolerance; by default one point for percentages, otherwise 1 % of the largest published value."""
    if claim.tolerance:
        return claim.tolerance.value
    if claim.unit == "%":
        return 1.0
    values = [abs(theirs.mean) for part in claim.arms or (claim,) if (theirs := part.sample()) is not None]
    return 0.01 * max(values) if values else None


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
