"""The runs of a claim: one per seed, arm and fold, planned and run as a resumable sweep, and read back as values."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_modules.config.errors import UserError, did_you_mean
from lightning_modules.config.run_names import run_name
from lightning_modules.reproduction.claim import Claim, SeedValues
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.sweep.controller import SweepRequest, run_sweep
from lightning_modules.sweep.hydra_plugin import compose_multirun
from lightning_modules.sweep.plans import FixedPlan, Trial
from lightning_modules.sweep.sweep_command import (
    SweepCommand,
    find_sweep,
    identity_differences,
    recorded_identity,
    sweep_identity,
)
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import CLAIM_FRESH_TAG, CLAIM_OVERRIDES_TAG, CLAIM_TAG, SWEEP_NAME_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


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


# --- running them --------------------------------------------------------------------------------------------------
def build_claim_plan(claim: Claim, seeds: Sequence[int]) -> FixedPlan:
    """The sweep plan of a claim."""
    arms = {arm.name: arm.overrides for arm in claim.arms}
    keys = [*(["arm"] if claim.arms else []), "seed", *(["data.fold"] if claim.folds else [])]
    trials = []
    for number, part in enumerate(claim_runs(claim, seeds)):
        params = {key: {"arm": part.arm, "seed": part.seed, "data.fold": part.fold}[key] for key in keys}
        fold = (f"data.folds={claim.folds}", f"data.fold={part.fold}") if claim.folds else ()
        overrides = (*arms.get(part.arm, ()), f"seed={part.seed}", *fold)
        trials.append(Trial(number, params, overrides, run_name(params, keys)))
    direction = "maximize" if claim.better == "higher" else "minimize"
    identity: dict[str, object] = {f"arms.{name}": list(own) for name, own in arms.items()}
    identity |= {"folds": claim.folds} if claim.folds else {}
    of_first_seed = len(claim_runs(claim, (0,)))
    samples = [trial.overrides for trial in trials[:of_first_seed]]
    return FixedPlan(trials, keys, {claim.metric: direction}, samples, identity)


def run_seeds(
    composed: ComposedClaim, seeds: Sequence[int], store: Store, *, jobs: int, retries: int, fresh: bool
) -> None:
    """Run the missing runs of a claim.

    Raises:
        UserError: every run failed, or an unfinished parent run has a different config.
        SignalReceived: stopped by a signal; the same command resumes.
    """
    plan = build_claim_plan(composed.claim, seeds)
    overrides = [*composed.overrides, f"sweep.jobs={jobs}", f"sweep.retries={retries}"]
    name, fresh = _sweep_name(composed, plan, overrides, fresh, store)
    overrides += [f"sweep.name={name}", f"sweep.skip_finished={str(not fresh).lower()}", f"name='{composed.name}'"]
    config, loader = compose_multirun(overrides)
    request = SweepRequest(
        "claim", config, overrides, loader,
        make_plan=lambda folder, name: plan,
        tags={
            CLAIM_TAG: composed.name,
            CLAIM_OVERRIDES_TAG: _extra_overrides(composed),
            CLAIM_FRESH_TAG: str(fresh).lower(),
            "mlflow.source.name": "scripts/reproduce.py",
        },
        resume_command=lambda name: f"touchstone reproduce {composed.name}",
        prints_summary=False,
    )  # fmt: skip
    run_sweep(request)


def find_parent_run(store: Store, composed: ComposedClaim) -> "Run | None":
    """The newest parent run of a claim with the same further overrides."""
    same = f"tags.`{CLAIM_OVERRIDES_TAG}` = '{_extra_overrides(composed)}'"
    return find_sweep(store, f"tags.`{CLAIM_TAG}` = '{composed.name}' AND {same}")


def _extra_overrides(composed: ComposedClaim) -> str:
    return " ".join(word.replace("'", '"') for word in composed.extra)


def _sweep_name(
    composed: ComposedClaim, plan: FixedPlan, overrides: list[str], fresh: bool, store: Store
) -> tuple[str, bool]:
    """The sweep's name (that of the newest parent run if the claim is unchanged), and whether it ignores older runs."""
    base = composed.name.replace("/", ".") + (".tried" if composed.extra else "")
    parent = find_parent_run(store, composed)
    if parent is None:
        return base, fresh
    name, changed = parent.data.tags[SWEEP_NAME_TAG], ""
    if recorded := recorded_identity(store, parent):
        config, loader = compose_multirun(overrides)
        now = sweep_identity("claim", SweepCommand.of(overrides, loader), config)
        now["swept"] = json.loads(json.dumps(plan.identity))
        changed = identity_differences(recorded, now)
    if changed and not fresh and parent.info.status != "FINISHED":
        raise UserError(
            f"{composed.name} has an unfinished run with a different config (run {parent.info.run_id}); restore the config, "
            f"or start again with fresh=true:\n{changed}"
        )
    if not changed and not fresh:
        return name, parent.data.tags.get(CLAIM_FRESH_TAG) == "true"
    number = int(name.removeprefix(base).lstrip(".") or 1)
    return f"{base}.{number + 1}", fresh


# --- their values --------------------------------------------------------------------------------------------------
def read_values(
    store: Store, claim: Claim, parts: Sequence[ClaimRun], children: Sequence[TrialResult]
) -> dict[str, dict[int, float]]:
    """Arm -> seed -> value in the claim's unit, without seeds that lack a run or a fold."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    finished = {child.number: child.run_id for child in children if child.status == "FINISHED"}
    for number, part in enumerate(parts):
        run_id = finished.get(number)
        value = _run_value(store, claim, run_id) if run_id else None
        if value is not None:
            found[part.arm, part.seed].append(value * claim.scale)
    values: dict[str, dict[int, float]] = {arm: {} for arm in claim.arm_names}
    for (arm, seed), folds in found.items():
        if len(folds) == (claim.folds or 1):
            values[arm][seed] = fmean(folds)
    return values


def _run_value(store: Store, claim: Claim, run_id: str) -> float | None:
    history = store.client.get_metric_history
    if claim.selection == "best_test":
        choose = max if claim.better == "higher" else min
        return choose((point.value for point in history(run_id, claim.metric)), default=None)
    if claim.epoch is None:
        return store.client.get_run(run_id).data.metrics.get(claim.metric)
    # after that many epochs; the run logs the number of the epoch, from 0, at the same steps
    points = {point.step: point.value for point in history(run_id, claim.metric)}
    epochs = {point.step: int(point.value) for point in history(run_id, "epoch")}
    last = claim.epoch - 1
    if ends := [step for step, number in epochs.items() if number == last and step in points]:
        return points[max(ends)]
    return points[max(points)] if len(points) == 1 and max(epochs.values(), default=last) == last else None


def missing_metric_hint(store: Store, metric: str, children: Sequence[TrialResult]) -> str | None:
    """A hint with similar metrics of the first finished run that lacks the metric; None if all have it."""
    for run_id in (child.run_id for child in children if child.status == "FINISHED" and child.run_id):
        names = set(store.client.get_run(run_id).data.metrics)
        if metric not in names:
            hint, every = did_you_mean(metric, names), ", ".join(sorted(names)) or "none"
            choices = f"{hint} (all: {every})" if hint else f"choose one of: {every}"
            return f"Run {run_id} has no metric {metric!r}; {choices}"
    return None


def missing_runs(values: SeedValues, seeds: Sequence[int]) -> list[str]:
    """Names of the runs without a value."""
    return [f"{arm} seed {seed}".strip() for arm, by_seed in values.items() for seed in seeds if seed not in by_seed]
