"""`compress_run`: the search of ``touchstone compress RUN`` as a sweep, with everything that can be refused beforehand."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lightning_modules.compression.budget.goal import RECIPE, chosen_keys, make_goal
from lightning_modules.compression.budget.plan import BudgetPlan
from lightning_modules.compression.budget.report import report_budget
from lightning_modules.config.errors import UserError
from lightning_modules.config.trust import refuse_untrusted_overrides
from lightning_modules.sweep.controller import SweepRequest, run_sweep
from lightning_modules.sweep.hydra_plugin import compose_multirun
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import Store, find_run, open_store
from lightning_modules.tracking.tags import WORKING_DIRECTORY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

# of the dense run: an attempt trains nothing but its stages, in a sweep of its own
_NOT_INHERITED = ("compression", "init_from", "name", "resume", "sweep", "search", "hydra", "tracking", "claim")


def compress_run(
    target: str, ratios: Mapping[str, float | None], max_drop: float, trials: int, patience: int, given: Sequence[str]
) -> list[TrialResult]:
    """Search the cheapest compression of a recorded run; return the attempts.

    Args:
        given: further overrides: of the stages, the sweep and the tracking.
    Raises:
        UserError: a mistake in the command, or the goal cannot be met.
    """
    composed, _ = compose_multirun([word for word in given if _key(word).startswith("tracking")])
    store = open_store(composed.tracking.get("uri"))
    dense = find_run(store, target)
    inherited = _recorded_overrides(store, dense)
    stages = [word for word in given if _key(word).startswith("compression.")]
    others = [word for word in given if word not in stages]
    config, loader = compose_multirun([*inherited, *others, f"compression={RECIPE}", *stages])
    goal = make_goal(ratios, max_drop, config, trials, patience)
    for word in stages:
        if _key(word) in chosen_keys(goal):
            raise UserError(f"{word}: the search chooses this value; omit it")
    overrides = [*inherited, *others]
    folder = dense.data.tags.get(WORKING_DIRECTORY_TAG, str(Path.cwd()))

    def make_plan(folder: Path, name: str) -> BudgetPlan:
        return BudgetPlan(goal, dense.info.run_id, stages, folder, name, int(config.search.get("seed", 0)))

    def resume_command(name: str) -> str:
        settings = [f"trials={trials}", f"patience={patience}", *given]
        settings += [] if any(_key(word) == "sweep.name" for word in given) else [f"sweep.name={name}"]
        return " ".join(["touchstone compress", dense.info.run_id, goal.describe(), *settings])

    request = SweepRequest(
        "budget", config, overrides, loader, make_plan=make_plan, preflight=functools.partial(check_attempt, folder),
        conclude=lambda sweep_store, results: report_budget(sweep_store, goal, results),
        tags={WORKING_DIRECTORY_TAG: folder},
        resume_command=resume_command, trusted=False,
    )  # fmt: skip
    return run_sweep(request)


def _recorded_overrides(store: Store, run: "Run") -> list[str]:
    """The overrides that composed the config of a recorded run, without those of its own compression and record."""
    recorded = yaml.safe_load(artifact_path(store, run, "config/overrides.yaml").read_text()) or []
    refuse_untrusted_overrides(recorded, f"the run {run.info.run_id}")
    return [word for word in recorded if _key(word).split(".")[0].split("/")[0] not in _NOT_INHERITED]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def check_attempt(folder: str, overrides: Sequence[str]) -> list[str]:
    """Why the network of these overrides cannot be compressed so; called in a process of its own.

    Args:
        folder: to which relative paths of the overrides are relative.
    """
    from lightning_modules.config.command_line import compose_run, format_error
    from lightning_modules.run.compression import build_compression
    from lightning_modules.run.contracts import check_services, find_services, has_part
    from lightning_modules.run.data_adapter import open_data
    from lightning_modules.run.prepare import build_task

    try:
        cfg = compose_run(overrides)
        if Path(folder).is_dir():
            os.chdir(folder)
        data = open_data(cfg)
        task, spec = build_task(cfg, data, [])
        services = find_services(cfg, task, data)
        check_services(cfg, services)
        build_compression(cfg, task, data, spec, services.serving.lacks)
        if not has_part(task, data, "val"):
            hint = (
                ": data.val_fraction=0.1" if data.own else f": {type(task).__name__} needs validation_step and a loader"
            )
            return [f"max_drop is measured on the validation part, and there is none{hint}"]
    except Exception as error:
        return [format_error(error) or f"{type(error).__name__}: {error}"]
    return []
