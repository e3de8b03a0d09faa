"""The runs of a claim: planning one per seed, arm and fold, and reading the value of each seed back."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lightning_modules.config.errors import did_you_mean
from lightning_modules.reproduction.claim import Claim, SeedValues
from lightning_modules.sweep.plans import FixedPlan, Trial, run_name
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.tracking.store import Store


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
    identity: dict[str, object] = {f"arms.{name}": list(own) for name, own in overrides.items()}
    identity |= {"folds": claim.folds} if claim.folds else {}
    return FixedPlan(trials, keys, {claim.metric: direction}, [trial.overrides for trial in trials[:each]], identity)


def _make_trial(
    number: int, part: ClaimRun, claim: Claim, keys: Sequence[str], overrides: dict[str, tuple[str, ...]]
) -> Trial:
    params: dict[str, str | int | None] = {"arm": part.arm, "seed": part.seed, "data.fold": part.fold}
    fold = (f"data.folds={claim.folds}", f"data.fold={part.fold}") if claim.folds else ()
    trial_overrides = (*overrides.get(part.arm, ()), f"seed={part.seed}", *fold)
    params = {key: params[key] for key in keys}
    return Trial(number, params, trial_overrides, run_name(params, keys))


def read_values(
    store: Store, claim: Claim, parts: Sequence[ClaimRun], children: Sequence[TrialResult]
) -> dict[str, dict[int, float]]:
    """Arm -> seed -> value in the claim's unit, without seeds that lack a run or a fold."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    by_number = {child.number: child for child in children}
    for number, part in enumerate(parts):
        child = by_number.get(number)
        if child is None or child.status != "FINISHED" or child.run_id is None:
            continue
        value = _run_value(store, claim, child.run_id)
        if value is not None:
            found[part.arm, part.seed].append(value * claim.scale)
    values: dict[str, dict[int, float]] = {arm: {} for arm in claim.arm_names}
    for (arm, seed), folds in found.items():
        if len(folds) == (claim.folds or 1):
            values[arm][seed] = fmean(folds)
    return values


def _run_value(store: Store, claim: Claim, run_id: str) -> float | None:
    if claim.selection == "best_test":
        points = [point.value for point in store.client.get_metric_history(run_id, claim.metric)]
        return (max if claim.better == "higher" else min)(points, default=None)
    if claim.epoch is not None:
        return _value_at_epoch(store, claim.metric, run_id, claim.epoch)
    run = store.client.get_run(run_id)
    value: float | None = run.data.metrics.get(claim.metric)
    return value


def _value_at_epoch(store: Store, metric: str, run_id: str, epoch: int) -> float | None:
    """The value after `epoch` epochs; the run logs the epoch number, from 0, at the same steps."""
    history = store.client.get_metric_history
    points = {point.step: point.value for point in history(run_id, metric)}
    epochs = {point.step: int(point.value) for point in history(run_id, "epoch")}
    ends = [step for step, number in epochs.items() if number == epoch - 1 and step in points]
    if ends:
        return points[max(ends)]
    return points[max(points)] if len(points) == 1 and max(epochs.values(), default=epoch - 1) == epoch - 1 else None


def missing_metric_hint(store: Store, metric: str, children: Sequence[TrialResult]) -> str | None:
    """A hint with similar metrics of the first finished run that lacks the metric; None if all have it."""
    for child in children:
        if child.status == "FINISHED" and child.run_id is not None:
            names = set(store.client.get_run(child.run_id).data.metrics)
            if metric not in names:
                hint, every = did_you_mean(metric, names), ", ".join(sorted(names)) or "none"
                choices = f"{hint} (all: {every})" if hint else f"choose one of: {every}"
                return f"Run {child.run_id} has no metric {metric!r}; {choices}"
    return None


def missing_runs(values: SeedValues, seeds: Sequence[int]) -> list[str]:
    """Names of the runs without a value."""
    return [f"{arm} seed {seed}".strip() for arm, by_seed in values.items() for seed in seeds if seed not in by_seed]
