"""Run all seeds of a claim as a resumable sweep."""

import json
from typing import TYPE_CHECKING

from lightning_modules.compat.hydra import no_callbacks
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.reproduction.claim_runs import build_claim_plan
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.reproduction.request import ClaimRequest
from lightning_modules.sweep.fixed_plan import FixedPlan
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import SWEEP_NAME_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

    from lightning_modules.sweep.hydra_plugin import GridSweeper


def run_seeds(composed: ComposedClaim, seeds: tuple[int, ...], request: ClaimRequest, store: Store) -> str:
    """Run the missing runs of a claim; return the id of its parent run.

    Raises:
        UserError: every run failed, or an unfinished parent run has a different config.
        SignalReceived: stopped by a signal; the same command resumes.
    """
    from lightning_modules.sweep.controller import run_sweep

    plan = build_claim_plan(composed.claim, seeds)
    overrides = [*composed.overrides, f"sweep.jobs={request.jobs}", f"sweep.retries={request.retries}"]
    name, fresh = _sweep_name(composed, plan, overrides, request.fresh, store)
    overrides += [f"sweep.name={name}", f"sweep.skip_finished={str(not fresh).lower()}", f"name='{composed.name}'"]
    run_sweep(_make_sweeper(composed, plan, overrides, fresh), overrides)
    parent = find_parent_run(store, composed)
    assert parent is not None
    return str(parent.info.run_id)


def find_parent_run(store: Store, composed: ComposedClaim) -> "Run | None":
    """The newest parent run of a claim with the same further overrides."""
    from lightning_modules.sweep.sweep_lookup import find_sweep

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
    from lightning_modules.sweep.controller import recorded_identity
    from lightning_modules.sweep.sweep_command import SweepCommand, identity_differences, sweep_identity

    recorded = recorded_identity(store, parent)
    if recorded is None:
        return ""
    sweeper = _make_sweeper(composed, plan, overrides)
    assert sweeper.config is not None  # set by setup()
    now = sweep_identity("claim", SweepCommand.of(overrides, sweeper.context.config_loader), sweeper.config)
    now["swept"] = json.loads(json.dumps(plan.identity))
    return identity_differences(recorded, now)


def _make_sweeper(composed: ComposedClaim, plan: FixedPlan, overrides: list[str], fresh: bool = False) -> "GridSweeper":
    """The sweeper for `run_sweep`, which Hydra creates for ``-m`` commands."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import HydraContext, RunMode

    from lightning_modules.sweep.hydra_plugin import GridSweeper, register

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
    sweeper = GridSweeper()
    sweeper.setup(
        hydra_context=HydraContext(config_loader=loader, callbacks=no_callbacks()), task_function=print, config=config
    )
    sweeper.kind, sweeper.plan = "claim", plan
    sweeper.tags = {
        "claim": composed.name,
        "claim.overrides": " ".join(_extra_overrides(composed)),
        "claim.fresh": str(fresh).lower(),
        "mlflow.source.name": "scripts/reproduce.py",
    }
    sweeper.resume_command = f"touchstone reproduce {composed.name}"
    return sweeper
