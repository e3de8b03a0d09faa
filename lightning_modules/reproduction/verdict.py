"""The verdict on a claim from its measured values. Absence of significance (p > 0.05) never counts as reproduced."""

from dataclasses import dataclass

from lightning_modules.report.t_intervals import mean_interval
from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict
from lightning_modules.reproduction.evidence import Evidence, default_tolerance, drop_nonfinite, weigh_evidence

MIN_SEEDS = 3  # seeds or pairs


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it, in the claim's unit.

    Attributes:
        method: how the interval is computed.
        ours_mean, ours_std, n: our seeds; for claims with arms, the differences of n pairs: first arm minus second, the
            decisive consecutive pair of an ordering, or the most different arm of an equivalence minus the first.
        theirs: the published number; None for an ordering and an equivalence.
        difference, low, high: ours minus theirs (or ours alone) and its 90 % interval; for an equivalence, low and high are
            the smallest and largest difference of any seed.
        tolerance: None for an ordering.
        ours_interval: 95 % interval of our mean.
        reason: one sentence that explains the verdict.
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


def judge(claim: Claim, values: SeedValues, invalid: str | None = None) -> Judgement:
    """Judge the measured values.

    A non-finite value is a result, not a failed seed: dropping it would bias the others, so the verdict is INCONCLUSIVE.

    Args:
        values: arm ("" without arms) -> seed -> value in the claim's unit; failed seeds are missing.
        invalid: why the runs are not those of the claim.

    Raises:
        ValueError: `values` has an arm that the claim does not have.
    """
    if unknown := set(values) - set(claim.arm_names):
        raise ValueError(f"arms {sorted(unknown)}: the claim has {list(claim.arm_names)}")
    tolerance, why = resolve_tolerance(claim)
    found = weigh_evidence(claim, drop_nonfinite(values), tolerance)
    verdict, reason = _decide(claim, found, values, invalid)
    ours, interval = found.ours, mean_interval(found.ours) if found.ours else None
    low, high = found.interval or (None, None)
    return Judgement(
        verdict=verdict, method=found.method, reason=reason, tolerance=tolerance, tolerance_why=why,
        ours_mean=ours.mean if ours else None, ours_std=ours.std if ours else None, n=ours.n if ours else 0,
        theirs=found.theirs, difference=ours.mean - (found.theirs or 0.0) if ours else None, low=low, high=high,
        ours_interval=(interval.low, interval.high) if interval else None,
    )  # fmt: skip


def resolve_tolerance(claim: Claim) -> tuple[float | None, str]:
    """The tolerance, in the claim's unit, and its justification.

    The claim's own; otherwise twice the published standard deviation, one point, or 1 % of the published value. For a
    difference, 1 % of its larger arm, as 1 % of a difference near 0 would be almost nothing.
    """
    if claim.tolerance:
        return claim.tolerance.value, claim.tolerance.why
    theirs = claim.sample()
    if claim.kind == "ordering" or theirs is None:
        return None, "not used for an ordering"
    if theirs.std:
        return 2 * theirs.std, "twice the published standard deviation"
    # a published spread of 0 was rounded, or the seed has no effect: it cannot define a tolerance
    spread = "no spread is published" if theirs.std is None else "the published spread is 0"
    if claim.unit == "%":
        return 1.0, f"one point, as {spread}"
    what = "the larger published arm" if claim.arms else "the published number"
    return default_tolerance(claim), f"1 % of {what}, as {spread}"


def _decide(claim: Claim, found: Evidence, values: SeedValues, invalid: str | None) -> tuple[Verdict, str]:
    """The verdict of the evidence, unless the runs cannot be judged, and its reason."""
    n = found.ours.n if found.ours else 0
    planned = len(set(claim.seeds).union(*values.values()))
    counted = f"{n} of {planned} {'pairs' if claim.arms else 'seeds'}"
    kept = drop_nonfinite(values)
    diverged = {seed for arm, of_arm in values.items() for seed in of_arm if seed not in kept[arm]}
    if invalid is not None:
        return Verdict.INVALID, invalid
    if claim.shortened and claim.kind != "curve":
        return Verdict.INCONCLUSIVE, f"Trained for less than in the source: {claim.shortened.rstrip('.')}."
    if diverged:
        some = ", ".join(map(str, sorted(diverged)))
        return (
            Verdict.INCONCLUSIVE,
            f"The value of seed {some} is not finite; the others ({counted}) alone would be biased.",
        )
    if n < MIN_SEEDS:
        return Verdict.INCONCLUSIVE, f"Only {counted} have a value; at least {MIN_SEEDS} are needed."
    return found.verdict, f"{found.explanation} ({counted})."
