"""What the numbers alone say of a claim, before anything forbids to judge them: one function for each kind of claim."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from lightning_modules.comparison.statistics import Interval
from lightning_modules.reproduction.claim import Claim, Verdict
from lightning_modules.reproduction.number import number_format
from lightning_modules.reproduction.statistics import (
    JUDGED,
    Sample,
    difference_interval,
    mean_interval,
    paired,
    published,
    sample_of,
)

DIVERGED = 1e100  # a loss beyond is as good as infinite; its square is no float any more
Values = Mapping[str, Mapping[int, float]]  # arm ("" where there are none) -> seed -> value in the claim's unit


@dataclass(frozen=True)
class Evidence:
    """A sample of ours, the interval that is judged, and what it says; without an interval it says nothing.

    Attributes:
        ours: of the seeds; of claims with arms, of the differences between two of them.
        said: the beginning of a sentence.
    """

    ours: Sample | None
    theirs: float | None
    interval: Interval | None
    method: str
    verdict: Verdict = Verdict.INCONCLUSIVE
    said: str = ""


@dataclass(frozen=True)
class Pair:
    """Two arms, seed by seed: `differences` are first minus second; `interval` is the 90 % one of their mean."""

    first: str
    second: str
    differences: Mapping[int, float]
    sample: Sample | None
    interval: Interval | None


def evidence(claim: Claim, values: Values, tolerance: float | None) -> Evidence:
    """What `values` say; of claims with arms only the seeds count that all arms have."""
    if claim.kind == "ordering":
        return _ordering(claim, neighbours(claim, values))
    assert tolerance is not None  # all others have one
    if claim.kind == "equivalence":
        return _equivalence(claim, against_first(claim, values), tolerance)
    if claim.kind == "difference":
        (pair,) = neighbours(claim, values)
        return _beside_paper(claim, pair.sample, tolerance, f"{pair.first} minus {pair.second}, paired by seed; ")
    return _beside_paper(claim, sample_of(list(values.get("", {}).values())), tolerance, "")


def finite(values: Values) -> dict[str, dict[int, float]]:
    """Without what is not a number, infinite, or on the way there."""
    return {arm: {seed: v for seed, v in of_arm.items() if abs(v) < DIVERGED} for arm, of_arm in values.items()}


def neighbours(claim: Claim, values: Values) -> list[Pair]:
    """Each arm minus the next."""
    whole = complete(claim, values)
    return [_pair(whole, first, second) for first, second in pairwise(claim.arm_names)]


def against_first(claim: Claim, values: Values) -> list[Pair]:
    """Each other arm minus the first."""
    whole = complete(claim, values)
    return [_pair(whole, other, claim.arm_names[0]) for other in claim.arm_names[1:]]


def complete(claim: Claim, values: Values) -> dict[str, dict[int, float]]:
    """The values of the seeds that all arms have."""
    seeds = set.intersection(*(set(values.get(arm, {})) for arm in claim.arm_names))
    return {arm: {seed: values[arm][seed] for seed in sorted(seeds)} for arm in claim.arm_names if seeds}


def _pair(values: Values, first: str, second: str) -> Pair:
    differences = paired(values.get(first, {}), values.get(second, {}))
    sample = sample_of(list(differences.values()))
    return Pair(first, second, differences, sample, mean_interval(sample, JUDGED) if sample else None)


def _beside_paper(claim: Claim, ours: Sample | None, tolerance: float, what: str) -> Evidence:
    theirs = published(claim)
    assert theirs is not None  # the schema asks for it
    if theirs.has_spread:
        method = f"{what}90 % interval of the difference to the mean of {theirs.n} published runs (Welch)"
    else:
        method = f"{what}90 % prediction interval: the published number is one draw"
    interval = difference_interval(ours, theirs) if ours else None
    if ours is None or interval is None:
        return Evidence(ours, theirs.mean, None, method)
    verdict = _by_interval(interval, tolerance, claim.better, slack=1e-12 * max(abs(ours.mean), abs(theirs.mean)))
    write = number_format(claim.unit, ours.mean, theirs.mean)
    low, high = (write(end, sign=True) for end in interval)
    where = _SAID[verdict].format(tolerance=write(tolerance), better=claim.better)
    flat = "; all our seeds gave the same value" if ours.std == 0 else ""
    said = f"The 90 % interval of the difference, [{low}, {high}], {where}{flat}"
    return Evidence(ours, theirs.mean, interval, method, verdict, said)


_SAID = {
    Verdict.REPRODUCED: "lies inside the tolerance of ±{tolerance}",
    Verdict.CONSISTENT: "contains 0 and reaches beyond the tolerance of ±{tolerance}",
    Verdict.BETTER: "lies on the better side of the published number ({better} is better)",
    Verdict.NOT_REPRODUCED: "lies on the worse side of the published number ({better} is better)",
}


def _by_interval(interval: Interval, tolerance: float, better: str, slack: float) -> Verdict:
    """`slack` is the rounding error of two numbers that differ by just the tolerance, or not at all."""
    if -tolerance - slack <= interval.low and interval.high <= tolerance + slack:
        return Verdict.REPRODUCED
    if interval.low <= slack and interval.high >= -slack:
        return Verdict.CONSISTENT
    return Verdict.BETTER if (interval.low > 0) == (better == "higher") else Verdict.NOT_REPRODUCED


def _ordering(claim: Claim, pairs: list[Pair]) -> Evidence:
    """All neighbours must be in order, so REPRODUCED needs no correction for their number."""
    method = "90 % intervals of each arm minus the next, paired by seed"
    if any(pair.interval is None for pair in pairs):
        return Evidence(pairs[0].sample, None, None, method)
    closest = min(pairs, key=lambda pair: _towards_better(pair, claim.better).low)
    wrong = min(pairs, key=lambda pair: _towards_better(pair, claim.better).high)
    if _towards_better(wrong, claim.better).high < 0:
        verdict, pair, said = Verdict.NOT_REPRODUCED, wrong, "{} is worse than {} by a 90 % interval that excludes 0"
    elif _towards_better(closest, claim.better).low <= 0:
        verdict, pair, said = Verdict.CONSISTENT, closest, "The 90 % interval of {} minus {} contains 0"
    else:
        verdict, pair = Verdict.REPRODUCED, closest
        said = "Each arm is better than the next by a 90 % interval that excludes 0; closest are {} and {}"
    return Evidence(pair.sample, None, pair.interval, method, verdict, said.format(pair.first, pair.second))


def _towards_better(pair: Pair, better: str) -> Interval:
    assert pair.interval is not None
    low, high = pair.interval
    return Interval(low, high) if better == "higher" else Interval(-high, -low)


def _equivalence(claim: Claim, pairs: list[Pair], tolerance: float) -> Evidence:
    """Not of means: no seed of any arm may be further off than the tolerance."""
    method = f"smallest and largest difference to {claim.arm_names[0]} of any seed, no interval of a mean"
    if not pairs[0].differences:
        return Evidence(None, None, None, method)
    pair = max(pairs, key=lambda pair: max(map(abs, pair.differences.values())))
    ends = Interval(min(pair.differences.values()), max(pair.differences.values()))
    largest = max(map(abs, ends))
    verdict = Verdict.REPRODUCED if largest <= tolerance else Verdict.NOT_REPRODUCED
    write = number_format(claim.unit, largest, tolerance)
    where = "inside" if largest <= tolerance else "beyond"
    said = f"{pair.first} and {pair.second} differ by at most {write(largest)}, {where} the tolerance of {write(tolerance)}"
    return Evidence(pair.sample, None, ends, method, verdict, said)
