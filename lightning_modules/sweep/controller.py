"""A sweep from its command to its end: find or make its run, plan it, run it, and say what came of it."""

import contextlib
import json
import os
import platform
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from lightning_modules.config.check import empty_value
from lightning_modules.config.errors import UserError
from lightning_modules.config.metric_direction import sweep_objective
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.config.signals import SignalReceived, defer_signals, signals_as_exceptions
from lightning_modules.config.signature import describe_type, matches_type
from lightning_modules.config.trust import refuse_untrusted_overrides
from lightning_modules.strategy.launch.environment import available_cores
from lightning_modules.sweep.budget.plan import BudgetPlan
from lightning_modules.sweep.budget.report import report_budget
from lightning_modules.sweep.budget.setup import budget_plan, check_attempt, sweep_kind, without_budget
from lightning_modules.sweep.engine import Engine, Runner
from lightning_modules.sweep.fixed_plan import FixedPlan
from lightning_modules.sweep.grid_plan import GridPlan
from lightning_modules.sweep.launcher_runner import LauncherRunner
from lightning_modules.sweep.plans import DONE_STATES, Plan, Trial
from lightning_modules.sweep.process_pool import ProcessPool, start_forkserver
from lightning_modules.sweep.progress import SweepProgress
from lightning_modules.sweep.resources import allocate, visible_gpus
from lightning_modules.sweep.sweep_command import SweepCommand, require_same_sweep, sweep_identity
from lightning_modules.sweep.sweep_lookup import (
    check_sweep_name,
    find_sweep,
    find_sweep_to_resume,
    lock_sweep,
    sweep_folder,
)
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_job import TrialJob
from lightning_modules.sweep.trial_names import run_name
from lightning_modules.tracking.provenance import command_line
from lightning_modules.tracking.resume_drift import resume_options
from lightning_modules.tracking.store import Store, open_store, require_free_space
from lightning_modules.tracking.tags import WORKING_DIRECTORY_TAG

SETTING_TYPES: dict[str, Any] = {
    "name": str | int | None, "resume": str | int | None, "jobs": int | None, "retries": int, "skip_finished": bool
}  # fmt: skip


class AllTrialsFailedError(UserError):
    """No trial of a sweep came to its end."""


def run_sweep(sweeper: Any, overrides: list[str]) -> list[Any]:
    """Run the sweep of this command, or go on with it; return its children.

    Raises:
        UserError: the command is wrong, another process has this sweep, or (for a grid) a trial has failed for good.
        Killed: a signal stopped it; it can be gone on with.
    """
    config = sweeper.config
    sweeper.kind = sweep_kind(config, sweeper.kind)
    check_settings(config)
    start_forkserver()
    store = open_store(config.tracking.get("uri"))
    run, trusted = None, True
    if config.sweep.resume is not None:
        run = find_sweep_to_resume(store, str(config.sweep.resume))
        recorded = recorded_identity(store, run)
        resume_command = SweepCommand.of(overrides, sweeper.context.config_loader).overrides
        if recorded and all(word.startswith("resume.allow=") for word in resume_command):
            config, overrides = _restore_recorded_command(sweeper, recorded, overrides)
            trusted = False
    name = str((run and run.data.tags["sweep.name"]) or config.sweep.name or _default_name(sweeper.kind))
    check_sweep_name(name)
    folder = sweep_folder(store, name)
    require_free_space(folder, int(config.tracking.min_free_mb * 1e6))
    with read_write(sweeper.config.hydra.sweep):
        sweeper.config.hydra.sweep.dir = str(folder)  # where launchers put their files
    with lock_sweep(folder, name):
        return _SweepController(sweeper, config, overrides, store, name, folder, trusted).run()


def check_settings(config: DictConfig) -> None:
    """Raise UserError where `sweep` has values that make no sense, or where nothing would be recorded."""
    mistakes = [
        f"sweep.{key}={config.sweep[key]}: {describe_type(kind)} is wanted"
        for key, kind in SETTING_TYPES.items()
        if not matches_type(config.sweep[key], kind)
    ]
    for key, least in (("jobs", 1), ("retries", 0)):
        value = config.sweep[key]
        if isinstance(value, int) and value < least:
            mistakes.append(f"sweep.{key}={value}: it must be {least} or more")
    if not config.tracking.enabled:
        mistakes.append("tracking=none: a sweep is recorded; hydra/sweeper=basic hydra/launcher=basic runs without")
    names = {key: config.sweep[key] for key in ("name", "resume")}
    mistakes += [
        empty_value(f"sweep.{key}") for key, name in names.items() if name is not None and not str(name).strip()
    ]
    if resume_options(config)[0] is not None:
        mistakes.append("resume=…: that is for one run; a sweep goes on with sweep.resume=ID, or with its sweep=NAME")
    if mistakes:
        raise UserError("\n".join(mistakes))


def recorded_identity(store: Store, run: Any) -> dict[str, Any] | None:
    """What the sweep was told when it began; None where it was cut off before it could be kept."""
    from lightning_modules.tracking.artifacts import artifact_path

    try:
        return dict(json.loads(artifact_path(store, run, "sweep/plan.json").read_text()))
    except UserError:
        return None


def _restore_recorded_command(
    sweeper: Any, recorded: dict[str, Any], overrides: list[str]
) -> tuple[DictConfig, list[str]]:
    """The config and the overrides of ``-m sweep.resume=ID`` alone: those that the sweep began with."""
    refuse_untrusted_overrides(recorded["words"], "the recorded command of the sweep")
    overrides = [*recorded["words"], *overrides]
    chosen = [] if recorded["sweeper"] == "budget" else [f"hydra/sweeper={recorded['sweeper']}"]
    config = sweeper.context.config_loader.load_configuration("train", [*overrides, *chosen], run_mode=RunMode.MULTIRUN)
    sweeper.kind = recorded["sweeper"]
    return config, overrides


def _default_name(kind: str) -> str:
    return "budget-" * (kind == "budget") + datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


class _SweepController:
    """One sweep while this process holds it."""

    def __init__(
        self,
        sweeper: Any,
        config: DictConfig,
        overrides: list[str],
        store: Store,
        name: str,
        folder: Path,
        trusted: bool,
    ) -> None:
        self.sweeper, self.config, self.store, self.name, self.folder = sweeper, config, store, name, folder
        self.trusted = trusted
        self.command = SweepCommand.of(overrides, sweeper.context.config_loader)
        if sweeper.kind == "budget":
            self.command, self.told = without_budget(self.command)
        self.launcher = sweeper.chosen_launcher()
        cores, gpus, each = available_cores(), *_gpus(config)
        self.pool = ProcessPool(allocate(config.sweep.jobs or 1, cores, gpus, each), folder / "logs")
        self.signals: list[int] = []  # that asked the sweep to stop
        self.plan: Plan
        self.ledger: SweepStore

    def run(self) -> list[Any]:
        self.plan = self._plan()
        self._check_configs()
        with signals_as_exceptions(), contextlib.ExitStack() as opening:
            opening.enter_context(defer_signals())  # the sweep's run must not be left RUNNING
            self.ledger = self._open()
            try:
                opening.close()
                return self._conclude(self._run_trials())
            except BaseException as error:
                if not self.ledger.has_ended:
                    killed = self.signals or isinstance(error, SignalReceived | KeyboardInterrupt)
                    with contextlib.suppress(Exception):  # a store that is gone does not hide what happened
                        self.ledger.end("KILLED" if killed else "FAILED", str(error) or type(error).__name__)
                raise

    def _run_trials(self) -> list[Any]:
        if isinstance(self.plan, GridPlan | FixedPlan):
            self.plan.skip(
                {int(run.data.tags["sweep.trial"]) for run in self.ledger.runs()} | set(self.ledger.linked())
            )
        progress = SweepProgress(self.ledger, self.plan, self._again())
        timeout = self.config.search.get("timeout_s") if self.plan.is_sequential else None
        engine = Engine(
            self.plan, self.ledger, self._runner(), self._words_of, self.config.sweep.retries, progress.ended,
            time.time() + timeout if timeout else None,
        )  # fmt: skip
        self.signals = engine.signals
        progress.begin(engine.runner.free_slots())
        engine.run()
        return progress.end(shown=self.sweeper.plan is None)

    def _conclude(self, children: list[Any]) -> list[Any]:
        """Give the sweep's run its status, and this process its exit code."""
        if self.signals:
            self.ledger.end("KILLED")
            print(f"go on with: {self._again()}")
            raise SignalReceived(self.signals[0])
        failed = [child for child in children if child.status not in DONE_STATES]
        if failed and len(failed) == len(children):
            self.ledger.end("FAILED", "every trial failed")
            raise AllTrialsFailedError(f"every trial failed; the first one: {failed[0].error}")
        if isinstance(self.plan, BudgetPlan) and (missed := report_budget(self.ledger, self.plan, children)):
            self.ledger.end("FAILED", missed)
            raise UserError(missed)
        self.ledger.end("FINISHED")
        if failed and isinstance(self.plan, GridPlan):
            resume_command = f"{self._again()} sweep.retries={self.config.sweep.retries + 1}"
            raise UserError(
                f"{len(failed)} of {len(children)} trials failed; all others stand. Try them again: {resume_command}"
            )
        return children

    def _plan(self) -> Plan:
        if self.sweeper.plan is not None:
            plan: Plan = self.sweeper.plan
            return plan
        if self.sweeper.kind == "budget":
            return budget_plan(self.config, self.told, self.store, self.folder, self.name)
        objectives = sweep_objective(self.config.task.monitor)
        if self.sweeper.kind == "grid":
            return GridPlan(self.command.swept, objectives)
        from lightning_modules.sweep.optuna_plan import OptunaPlan
        from lightning_modules.sweep.search_settings import SearchSettings
        from lightning_modules.sweep.search_space import check_keys, parse_space

        settings = SearchSettings.from_config(self.config.search)
        space = parse_space(self.config.search.space, self.command.overrides)
        check_keys(space, self.config, PROJECT_ROOT / "conf")
        wanted, epochs = dict(settings.objectives) or objectives, self.config.trainer.max_epochs
        return OptunaPlan(settings, space, wanted, self.folder, self.name, epochs)

    def _check_configs(self) -> None:
        """Compose and check, in a warm process, a config with each value of each swept key. Raises UserError."""
        from lightning_modules.sweep.trial_job import check_configs

        samples = self._samples()
        mistakes = self.pool.call(check_configs, samples, self.trusted)
        if not mistakes and self.sweeper.kind == "budget":
            mistakes = self.pool.call(check_attempt, samples[-1])
        if mistakes:
            raise UserError("\n".join(mistakes))

    def _samples(self) -> list[list[str]]:
        if not isinstance(self.plan, GridPlan | BudgetPlan | FixedPlan):
            return []
        return [[*self.command.fixed, *point] for point in self.plan.samples()]

    def _open(self) -> SweepStore:
        """Find the sweep's run in the store, or make it. Raises UserError where one of this name is another sweep."""
        plan = sweep_identity(self.sweeper.kind, self.command, self.config)
        if isinstance(self.plan, FixedPlan):
            plan["swept"] = self.plan.identity
        found = find_sweep(self.store, f"tags.`sweep.name` = '{self.name}'")
        recorded = recorded_identity(self.store, found) if found else None
        if recorded:
            require_same_sweep(self.name, recorded, plan)
        run = found or self._new_run()
        self.store.client.update_run(run.info.run_id, status="RUNNING")
        if not recorded:
            self.store.client.log_text(run.info.run_id, json.dumps(plan, indent=1), "sweep/plan.json")
        return SweepStore(self.store, run, self.folder)

    def _new_run(self) -> Any:
        tags = {
            "touchstone.kind": "sweep",
            "sweep.name": self.name,
            "sweep.keys": json.dumps(self.plan.keys),
            "sweep.objectives": json.dumps(self.plan.objectives),
            "touchstone.command": command_line(),
            WORKING_DIRECTORY_TAG: str(Path.cwd()),
            "mlflow.source.name": "touchstone train",
            "mlflow.source.type": "LOCAL",
            **self.sweeper.tags,
        }
        experiment = self.store.experiment(self.config.tracking.experiment)
        return self.store.client.create_run(experiment, run_name=str(self.config.name or self.name), tags=tags)

    def _runner(self) -> Runner:
        if self.launcher is None:
            return self.pool
        return LauncherRunner(self.launcher, self.config.sweep.jobs or (1 if self.plan.is_sequential else None))

    def _words_of(self, trial: Trial, run_id: str | None) -> list[str]:
        job = TrialJob(
            parent=self.ledger.run_id,
            sweep=self.name,
            number=trial.number,
            params=trial.params,
            name=trial.name or run_name(trial.params, self.plan.keys) or f"trial {trial.number}",
            pid=os.getpid(),
            host=platform.node(),
            run_id=run_id,
            skip_finished=self.config.sweep.skip_finished,
            judge=getattr(self.plan, "judge", lambda: None)(),
            beats=self.launcher is not None,
            trusted=self.trusted,
            folder=self.ledger.working_directory,
        )
        return [*self.command.fixed, *trial.overrides, job.word()]

    def _again(self) -> str:
        return self.sweeper.resume_command or f"touchstone train -m sweep.resume={self.name}"


def _gpus(config: DictConfig) -> tuple[list[str], int]:
    """The GPUs that runs may share out, and how many each takes."""
    if config.trainer.accelerator not in ("gpu", "cuda", "auto"):
        return [], 0
    gpus, devices = visible_gpus(), config.trainer.devices
    each = devices if isinstance(devices, int) and devices > 0 else len(gpus)
    return gpus, each
