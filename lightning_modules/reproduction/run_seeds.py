"""Run all seeds of a claim as a resumable sweep."""

import json
from typing import TYPE_CHECKING

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim_runs import build_claim_plan
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.reproduction.request import ClaimRequest
from lightning_modules.sweep.controller import SweepRequest, recorded_identity, run_sweep
from lightning_modules.sweep.hydra_plugin import compose_multirun
from lightning_modules.sweep.plans import FixedPlan
from lightning_modules.sweep.sweep_command import SweepCommand, find_sweep, identity_differences, sweep_identity
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import SWEEP_NAME_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


def run_seeds(composed: ComposedClaim, seeds: tuple[int, ...], claim_request: ClaimRequest, store: Store) -> str:
    """Run the missing runs of a claim; return the id of its parent run.

    Raises:
        UserError: every run failed, or an unfinished parent run has a different config.
        SignalReceived: stopped by a signal; the same command resumes.
    """
    plan = build_claim_plan(composed.claim, seeds)
    overrides = [*composed.overrides, f"sweep.jobs={claim_request.jobs}", f"sweep.retries={claim_request.retries}"]
    name, fresh = _sweep_name(composed, plan, overrides, claim_request.fresh, store)
    overrides += [f"sweep.name={name}", f"sweep.skip_finished={str(not fresh).lower()}", f"name='{composed.name}'"]
    run_sweep(_make_request(composed, plan, overrides, fresh))
    parent = find_parent_run(store, composed)
    assert parent is not None
    return str(parent.info.run_id)


def find_parent_run(store: Store, composed: ComposedClaim) -> "Run | None":
    """The newest parent run of a claim with the same further overrides."""
    tried = " ".join(_extra_overrides(composed))
    return find_sweep(store, f"tags.`claim` = '{composed.name}' AND tags.`claim.overrides` = '{tried}'")


def _extra_overrides(composed: ComposedClaim) -> tuple[str, ...]:
    """The overrides besides the claim's own."""
    return tuple(word.replace("'", '"') for word in composed.overrides[2:])


def _sweep_name(
    composed: ComposedClaim, plan: FixedPlan, overrides: list[str], fresh: bool, store: Store
) -> tuple[str, bool]:
    """The sweep's name (that of the newest parent run if the claim is unchanged), and whether it ignores older runs."""
    base = composed.name.replace("/", ".") + (".tried" if _extra_overrides(composed) else "")
    parent = find_parent_run(store, composed)
    if parent is None:
        return base, fresh
    name = parent.data.tags[SWEEP_NAME_TAG]
    changed = _config_changes(store, parent, composed, plan, overrides)
    if changed and not fresh and parent.info.status != "FINISHED":
        raise UserError(
            f"{composed.name} has an unfinished run with a different config (run {parent.info.run_id}); restore the config, "
            f"or start again with fresh=true:\n{changed}"
        )
    if not changed and not fresh:
        return name, parent.data.tags.get("claim.fresh") == "true"
    number = int(name.removeprefix(base).lstrip(".") or 1)
    return f"{base}.{number + 1}", fresh


def _config_changes(store: Store, parent: "Run", composed: ComposedClaim, plan: FixedPlan, overrides: list[str]) -> str:
    recorded = recorded_identity(store, parent)
    if recorded is None:
        return ""
    request = _make_request(composed, plan, overrides)
    now = sweep_identity("claim", SweepCommand.of(overrides, request.loader), request.config)
    now["swept"] = json.loads(json.dumps(plan.identity))
    return identity_differences(recorded, now)


def _make_request(composed: ComposedClaim, plan: FixedPlan, overrides: list[str], fresh: bool = False) -> SweepRequest:
    config, loader = compose_multirun(overrides)
    return SweepRequest(
        "claim", config, overrides, loader,
        make_plan=lambda folder, name: plan,
        tags={
            "claim": composed.name,
            "claim.overrides": " ".join(_extra_overrides(composed)),
            "claim.fresh": str(fresh).lower(),
            "mlflow.source.name": "scripts/reproduce.py",
        },
        resume_command=lambda name: f"touchstone reproduce {composed.name}",
        prints_summary=False,
    )  # fmt: skip
