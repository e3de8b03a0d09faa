"""`run_sweep`: find or create the sweep's run, make its plan, run it, and record the outcome.

Longer than 200 lines: the steps of one sweep share its request, plan, store and pool.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from lightning_modules.config.bounds import Count, Whole, mismatch
from lightning_modules.config.check import empty_value
from lightning_modules.config.errors import UserError
from lightning_modules.config.metric_direction import sweep_objective
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.run_names import run_name
from lightning_modules.config.signals import SignalReceived, defer_signals, signals_as_exceptions
from lightning_modules.config.trust import refuse_untrusted_overrides
from lightning_modules.strategy.launch.environment import allocate, available_cores, visible_gpus
from lightning_modules.sweep.engine import Engine, Runner
from lightning_modules.sweep.launcher_runner import LauncherRunner
from lightning_modules.sweep.plans import DONE_STATES, Plan, Trial, grid_plan
from lightning_modules.sweep.process_pool import ProcessPool, start_forkserver
from lightning_modules.sweep.progress import SweepProgress
from lightning_modules.sweep.sweep_command import (
    SweepCommand,
    check_sweep_name,
    find_sweep,
    find_sweep_to_resume,
    lock_sweep,
    recorded_identity,
    require_same_sweep,
    sweep_folder,
    sweep_identity,
)
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_job import TrialJob, check_configs
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.tracking import tags as tag
from lightning_modules.tracking.provenance import command_line
from lightning_modules.tracking.resume_drift import resume_options
from lightning_modules.tracking.store import Store, open_store, require_free_space

if TYPE_CHECKING:
    from mlflow.entities import Run

OWN_KINDS = ("grid", "optuna")  # of sweeps that touchstone train starts
SETTINGS: dict[str, object] = {
    "name": str | int | None, "resume": str | int | None, "jobs": Count | None, "retries": Whole,
    "skip_finished": bool,
}  # fmt: skip


class AllTrialsFailedError(UserError):
    """Every trial of a sweep failed."""


@dataclass
class SweepRequest:
    """A sweep to run.

    Attributes:
        kind: ``grid``, ``optuna``, or that of a verb which brings its own plan.
        config: composed from `overrides` for a multirun, by `loader`.
        launcher: returns Hydra's launcher; None: the process pool.
        make_plan: returns the plan, given the sweep's folder and name; None: by `kind`.
        preflight: returns mistakes in a trial's overrides, in a process of its own, besides those of its config.
        conclude: records what the plan found; returns the error if that is not what was asked for.
        tags: of the sweep's run, besides the usual ones.
        resume_command: None: ``touchstone train -m sweep.resume=NAME``.
        trusted: whether the user gave the overrides; recorded ones may name components only.
        prints_summary: whether the table of trials is printed at the end.
    """

    kind: str
    config: DictConfig
    overrides: list[str]
    loader: ConfigLoader
    launcher: Callable[[], Launcher | None] = lambda: None
    make_plan: Callable[[Path, str], Plan] | None = None
    preflight: Callable[[list[str]], list[str]] | None = None
    conclude: Callable[[SweepStore, list[TrialResult]], str | None] = lambda store, results: None
    tags: Mapping[str, str] = field(default_factory=dict)
    resume_command: Callable[[str], str] = "touchstone train -m sweep.resume={}".format
    trusted: bool = True
    prints_summary: bool = True


def run_sweep(request: SweepRequest) -> list[TrialResult]:
    """Run or resume a sweep; return its trials.

    Raises:
        UserError: the command is wrong, another process is running this sweep, or (of a grid) a trial failed.
        SignalReceived: a signal stopped the sweep; it can be resumed.
    """
    config = request.config
    _check_settings(config)
    start_forkserver()
    store = open_store(config.tracking.get("uri"))
    resumed = find_sweep_to_resume(store, str(config.sweep.resume)) if config.sweep.resume is not None else None
    now = f"{f'{request.kind}-' * (request.kind not in OWN_KINDS)}{datetime.now():%Y-%m-%d_%H-%M-%S}"
    name = str((resumed and resumed.data.tags[tag.SWEEP_NAME_TAG]) or config.sweep.name or now)
    if resumed and (recorded := recorded_identity(store, resumed)):
        _restore_command(request, recorded, name)
    check_sweep_name(name)
    folder = sweep_folder(store, name)
    require_free_space(folder, int(config.tracking.min_free_mb * 1e6))
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir = str(folder)  # where launchers put their files
    with lock_sweep(folder, name):
        return _SweepController(request, store, name, folder).run()


def _check_settings(config: DictConfig) -> None:
    """Raise UserError for invalid settings of the group `sweep`, or if nothing would be recorded."""
    mistakes = []
    for key, hint in SETTINGS.items():
        value = config.sweep[key]
        if wrong := mismatch(value, hint):
            mistakes.append(f"sweep.{key}={value}: {wrong}")
        elif isinstance(value, str) and not value.strip():
            mistakes.append(empty_value(f"sweep.{key}"))
    if not config.tracking.enabled:
        mistakes.append("tracking=none: a sweep is recorded; hydra/sweeper=basic hydra/launcher=basic runs without")
    if resume_options(config)[0] is not None:
        mistakes.append("resume=… continues one run; resume a sweep with sweep.resume=ID, or repeat its sweep=NAME")
    if mistakes:
        raise UserError("\n".join(mistakes))


def _restore_command(request: SweepRequest, recorded: PlainDict, name: str) -> None:
    """Replace ``-m sweep.resume=ID`` without further overrides by the command that started the sweep."""
    given = SweepCommand.of(request.overrides, request.loader).overrides
    if not all(override.startswith("resume.allow=") for override in given):
        return
    if recorded["sweeper"] not in OWN_KINDS:
        raise UserError(
            f"sweep.resume={name}: this sweep is not one of touchstone train; its run's description has the command"
        )
    refuse_untrusted_overrides(recorded["words"], "the recorded command of the sweep")
    request.overrides = [*recorded["words"], *request.overrides]
    request.kind, request.trusted = recorded["sweeper"], False
    chosen = [*request.overrides, f"hydra/sweeper={request.kind}"]
    request.config = request.loader.load_configuration("train", chosen, run_mode=RunMode.MULTIRUN)


class _SweepController:
    """One sweep, while this process holds its lock."""

    def __init__(self, request: SweepRequest, store: Store, name: str, folder: Path) -> None:
        self.request, self.config, self.store, self.name, self.folder = request, request.config, store, name, folder
        self.command = SweepCommand.of(request.overrides, request.loader)
        self.launcher = request.launcher()
        slots = allocate(self.config.sweep.jobs or 1, available_cores(), *_gpus(self.config))
        self.pool = ProcessPool(slots, folder / "logs")
        self.signals: list[int] = []  # that stopped the sweep
        self.plan = request.make_plan(folder, name) if request.make_plan else self._make_plan()
        self.resume_command = request.resume_command(name)
        self.sweep_store: SweepStore

    def run(self) -> list[TrialResult]:
        self._check_configs()
        with signals_as_exceptions(), contextlib.ExitStack() as opening:
            opening.enter_context(defer_signals())  # the sweep's run must not be left RUNNING
            self.sweep_store = self._open()
            try:
                opening.close()
                return self._conclude(self._run_trials())
            except BaseException as error:
                if not self.sweep_store.has_ended:
                    killed = self.signals or isinstance(error, SignalReceived | KeyboardInterrupt)
                    with contextlib.suppress(Exception):  # a store that is gone does not hide what happened
                        self.sweep_store.end("KILLED" if killed else "FAILED", str(error) or type(error).__name__)
                raise

    def _make_plan(self) -> Plan:
        objectives = sweep_objective(self.config.task.monitor)
        if self.request.kind == "grid":
            return grid_plan(self.command.swept, objectives)
        from lightning_modules.sweep.optuna_plan import OptunaPlan
        from lightning_modules.sweep.search_settings import SearchSettings
        from lightning_modules.sweep.search_space import check_keys, parse_space

        settings = SearchSettings.from_config(self.config.search)
        space = parse_space(self.config.search.space, self.command.overrides)
        check_keys(space, self.command.fixed)
        objectives, epochs = dict(settings.objectives) or objectives, self.config.trainer.max_epochs
        if not objectives:
            raise UserError(
                "a search needs a metric that the task logs: task.monitor.metric=NAME task.monitor.mode=min (or max)"
            )
        return OptunaPlan(settings, space, objectives, self.folder, self.name, epochs)

    def _check_configs(self) -> None:
        """Compose and check the plan's samples in a warm process. Raises UserError."""
        samples = [[*self.command.fixed, *point] for point in self.plan.samples()]
        mistakes = self.pool.call(check_configs, samples, self.request.trusted)
        if not mistakes and self.request.preflight:
            mistakes = self.pool.call(self.request.preflight, samples[-1])
        if mistakes:
            raise UserError("\n".join(mistakes))

    def _open(self) -> SweepStore:
        """Find the sweep's run in the store, or create it. Raises UserError if one of this name is another sweep."""
        identity = sweep_identity(self.request.kind, self.command, self.config)
        if self.plan.identity is not None:
            identity["swept"] = json.loads(json.dumps(self.plan.identity))
        found = find_sweep(self.store, f"tags.`{tag.SWEEP_NAME_TAG}` = '{self.name}'")
        recorded = recorded_identity(self.store, found) if found else None
        if recorded:
            require_same_sweep(self.name, recorded, identity)
        run = found or self._create_run()
        self.store.client.update_run(run.info.run_id, status="RUNNING")
        if not recorded:
            self.store.client.log_text(run.info.run_id, json.dumps(identity, indent=1), "sweep/plan.json")
        return SweepStore(self.store, run, self.folder)

    def _create_run(self) -> "Run":
        named = self.config.get("study")
        study = {} if named is None else {tag.STUDY_TAG: str(named)}
        name = self.config.name or "/".join([*study.values(), self.name])
        tags = {
            tag.KIND_TAG: "sweep",
            tag.SWEEP_NAME_TAG: self.name,
            tag.SWEEP_KEYS_TAG: json.dumps(self.plan.keys),
            tag.SWEEP_OBJECTIVES_TAG: json.dumps(self.plan.objectives),
            tag.COMMAND_TAG: command_line(),
            tag.WORKING_DIRECTORY_TAG: str(Path.cwd()),
            "mlflow.source.name": "touchstone train",
            "mlflow.source.type": "LOCAL",
            **self.request.tags,
            **study,
        }
        experiment = self.store.experiment(self.config.tracking.experiment)
        return self.store.client.create_run(experiment, run_name=str(name), tags=tags)

    def _run_trials(self) -> list[TrialResult]:
        progress = SweepProgress(self.sweep_store, self.plan, self.resume_command)
        timeout = self.config.search.get("timeout_s") if self.plan.is_sequential else None
        engine = Engine(
            self.plan, self.sweep_store, self._runner(), self._overrides_of, self.config.sweep.retries,
            progress.trial_ended, time.time() + timeout if timeout else None,
        )  # fmt: skip
        self.signals = engine.signals
        earlier = self.sweep_store.trial_states(self.plan)
        progress.start(engine.runner.free_slots(), earlier)
        engine.run(earlier)
        return progress.end(self.request.prints_summary)

    def _runner(self) -> Runner:
        if self.launcher is None:
            return self.pool
        return LauncherRunner(self.launcher, self.config.sweep.jobs or (1 if self.plan.is_sequential else None))

    def _overrides_of(self, trial: Trial, run_id: str | None) -> list[str]:
        job = TrialJob(
            parent=self.sweep_store.run_id,
            sweep=self.name,
            number=trial.number,
            params=trial.params,
            name=trial.name or run_name(trial.params, self.plan.keys) or f"trial {trial.number}",
            pid=os.getpid(),
            host=platform.node(),
            run_id=run_id,
            skip_finished=self.config.sweep.skip_finished,
            pruning=self.plan.pruning(),
            heartbeat=self.launcher is not None,
            trusted=self.request.trusted,
            folder=self.sweep_store.working_directory,
        )
        return [*self.command.fixed, *trial.overrides, job.to_override()]

    def _conclude(self, results: list[TrialResult]) -> list[TrialResult]:
        """Set the status of the sweep's run, and raise what makes the exit code."""
        if self.signals:
            self.sweep_store.end("KILLED")
            print(f"resume with: {self.resume_command}")
            raise SignalReceived(self.signals[0])
        failed = [result for result in results if result.status not in DONE_STATES]
        if failed and len(failed) == len(results):
            self.sweep_store.end("FAILED", "every trial failed")
            raise AllTrialsFailedError(f"every trial failed; the first error: {failed[0].error}")
        if error := self.request.conclude(self.sweep_store, results):
            self.sweep_store.end("FAILED", error)
            raise UserError(error)
        self.sweep_store.end("FINISHED")
        if failed and self.request.kind == "grid":
            retry = f"{self.resume_command} sweep.retries={self.config.sweep.retries + 1}"
            raise UserError(f"{len(failed)} of {len(results)} trials failed; the others completed. Retry with: {retry}")
        return results


def _gpus(config: DictConfig) -> tuple[list[str], int]:
    """The GPUs to share among trials, and how many each trial uses."""
    if config.trainer.accelerator not in ("gpu", "cuda", "auto"):
        return [], 0
    gpus, devices = visible_gpus(), config.trainer.devices
    return gpus, devices if isinstance(devices, int) and devices > 0 else len(gpus)
