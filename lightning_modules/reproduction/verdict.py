"""What a statistician would say of our runs beside the paper's number. A p above 0.05 never says "reproduced"."""

from dataclasses import asdict, dataclass
from typing import Any

from lightning_modules.reproduction.claim import Claim, Verdict
from lightning_modules.reproduction.evidence import Evidence, Values, evidence, finite, usual_tolerance
from lightning_modules.reproduction.statistics import mean_interval, published

FEWEST = 3  # seeds, or pairs of them, that say anything


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it, in the claim's unit.

    Attributes:
        method: how the interval was made.
        ours_mean, ours_std, n: of our seeds; of claims with arms, of the differences of n pairs: first arm minus second, of
            an ordering the two neighbours that decide, of an equivalence the arm that is furthest off minus the first.
        theirs: the published number; None for an ordering and an equivalence.
        difference, low, high: ours minus theirs (or ours alone) and its 90 % interval; of an equivalence low and high are
            the smallest and the largest difference of any seed.
        tolerance: None for an ordering.
        ours_interval: 95 % interval of our mean.
        reason: one sentence.
    """

    verdict: Verdict
    method: str
    ours_mean: float | None
    ours_std: float | None
    n: int
    theirs: float | None
    difference: float | None
    low: float | None
    high: float | None
    tolerance: float | None
    tolerance_why: str
    ours_interval: tuple[float, float] | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        interval = list(self.ours_interval) if self.ours_interval else None
        return asdict(self) | {"verdict": self.verdict.value, "ours_interval": interval}


def judge(claim: Claim, values: Values, invalid: str | None = None) -> Judgement:
    """Judge what was measured.

    A value that is not finite is no failed seed but a result; without it the rest would be a selection: INCONCLUSIVE.

    Args:
        values: arm ("" where there are no arms) -> seed -> value in the claim's unit; failed seeds are missing.
        invalid: why the runs are not those that the claim is about.

    Raises:
        ValueError: `values` has an arm that the claim has not.
    """
    if unknown := set(values) - set(claim.arm_names):
        raise ValueError(f"arms {sorted(unknown)}: the claim has {list(claim.arm_names)}")
    tolerance, why = margin(claim)
    found = evidence(claim, finite(values), tolerance)
    verdict, reason = _weighed(claim, found, values, invalid)
    ours, interval = found.ours, mean_interval(found.ours) if found.ours else None
    low, high = found.interval or (None, None)
    return Judgement(
        verdict=verdict, method=found.method, reason=reason, tolerance=tolerance, tolerance_why=why,
        ours_mean=ours.mean if ours else None, ours_std=ours.std if ours else None, n=ours.n if ours else 0,
        theirs=found.theirs, difference=ours.mean - (found.theirs or 0.0) if ours else None, low=low, high=high,
        ours_interval=(interval.low, interval.high) if interval else None,
    )  # fmt: skip


def margin(claim: Claim) -> tuple[float | None, str]:
    """The tolerance, in the claim's unit, and its reason.

    The claim's own, or twice the published standard deviation, or one point, or 1 % of the published value; of a difference
    1 % of its larger arm, as a percentage of a difference near 0 would be next to nothing.
    """
    if claim.tolerance:
        return claim.tolerance.value, claim.tolerance.why
    theirs = published(claim)
    if claim.kind == "ordering" or theirs is None:
        return None, "an ordering has none"
    if theirs.std:
        return 2 * theirs.std, "twice the published standard deviation"
    # a spread that is published as 0 was rounded, or of runs that a seed does not change: no margin can be made of it
    spread = "no spread is published" if theirs.std is None else "the published spread is 0"
    if claim.unit == "%":
        return 1.0, f"one point, as {spread}"
    what = "the larger published arm" if claim.arms else "the published number"
    return usual_tolerance(claim), f"1 % of {what}, as {spread}"


def _weighed(claim: Claim, found: Evidence, values: Values, invalid: str | None) -> tuple[Verdict, str]:
    """The evidence's verdict, unless something forbids to judge at all, and one sentence."""
    n = found.ours.n if found.ours else 0
    planned = len(set(claim.seeds).union(*values.values()))
    counted = f"{n} of {planned} {'pairs' if claim.arms else 'seeds'}"
    kept = finite(values)
    diverged = {seed for arm, of_arm in values.items() for seed in of_arm if seed not in kept[arm]}
    if invalid is not None:
        return Verdict.INVALID, invalid
    if claim.shortened and claim.kind != "curve":
        return Verdict.INCONCLUSIVE, f"Less is trained than in the source: {claim.shortened.rstrip('.')}."
    if diverged:
        some = ", ".join(map(str, sorted(diverged)))
        return Verdict.INCONCLUSIVE, f"The value of seed {some} is not finite; the others ({counted}) are a selection."
    if n < FEWEST:
        return Verdict.INCONCLUSIVE, f"Only {counted} have a value; {FEWEST} are the fewest that say anything."
    return found.verdict, f"{found.said} ({counted})."
