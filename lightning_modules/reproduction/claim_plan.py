"""The runs of a claim: one per seed, arm and fold, numbered so that more seeds can be added later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.reproduction.claim import Claim
from lightning_modules.sweep.fixed_plan import FixedPlan
from lightning_modules.sweep.plans import Trial
from lightning_modules.sweep.trial_names import run_name


@dataclass(frozen=True)
class ClaimRun:
    """Identifies a run of a claim; the arm is ``""`` if the claim has none."""

    arm: str
    seed: int
    fold: int | None


def select_seeds(claim: Claim, count: int | None) -> tuple[int, ...]:
    """The first `count` seeds of the claim; if it has fewer, continued after its largest."""
    if count is None or count <= len(claim.seeds):
        return claim.seeds[:count]
    start = max(claim.seeds) + 1
    return (*claim.seeds, *range(start, start + count - len(claim.seeds)))


def claim_runs(claim: Claim, seeds: Sequence[int]) -> list[ClaimRun]:
    """All runs; the seed varies slowest, so that a run's number does not depend on the number of seeds."""
    folds: Sequence[int | None] = range(claim.folds) if claim.folds else [None]
    return [ClaimRun(arm, seed, fold) for seed in seeds for arm in claim.arm_names for fold in folds]


def build_claim_plan(claim: Claim, seeds: Sequence[int]) -> FixedPlan:
    """The sweep plan of a claim."""
    overrides = {arm.name: arm.overrides for arm in claim.arms}
    keys = [*(["arm"] if claim.arms else []), "seed", *(["data.fold"] if claim.folds else [])]
    trials = [_make_trial(number, part, claim, keys, overrides) for number, part in enumerate(claim_runs(claim, seeds))]
    each: int = len(claim.arm_names) * (claim.folds or 1)
    direction = "maximize" if claim.better == "higher" else "minimize"
    identity: dict[str, Any] = {f"arms.{name}": list(words) for name, words in overrides.items()}
    identity |= {"folds": claim.folds} if claim.folds else {}
    return FixedPlan(trials, keys, {claim.metric: direction}, [trial.overrides for trial in trials[:each]], identity)


def _make_trial(number: int, part: ClaimRun, claim: Claim, keys: Sequence[str], overrides: dict[str, Any]) -> Trial:
    params: dict[str, Any] = {"arm": part.arm, "seed": part.seed, "data.fold": part.fold}
    fold = (f"data.folds={claim.folds}", f"data.fold={part.fold}") if claim.folds else ()
    words = (*overrides.get(part.arm, ()), f"seed={part.seed}", *fold)
    params = {key: params[key] for key in keys}
    return Trial(number, params, words, run_name(params, keys))
