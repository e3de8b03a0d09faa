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

from lightning_modules.check import empty_value
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.config.trust import refuse_untrusted_overrides
from lightning_modules.errors import UserError
from lightning_modules.killed import Killed, signals_raise, undisturbed
from lightning_modules.signature import fits, spoken
from lightning_modules.strategy.cores import allowed_cores
from lightning_modules.sweep.budget.begin import budget_plan, kind_of, try_attempt, without_budget
from lightning_modules.sweep.budget.conclude import conclude
from lightning_modules.sweep.budget.plan import BudgetPlan
from lightning_modules.sweep.command import Command, plan_of, refuse_other
from lightning_modules.sweep.engine import Engine, Runner
from lightning_modules.sweep.found import check_name, find_sweep, hold, resumed_sweep, sweep_folder
from lightning_modules.sweep.grid import Grid
from lightning_modules.sweep.job import Job
from lightning_modules.sweep.launched import Launched
from lightning_modules.sweep.ledger import Ledger
from lightning_modules.sweep.listed import Listed
from lightning_modules.sweep.names import run_name
from lightning_modules.sweep.places import shares, visible_gpus
from lightning_modules.sweep.pool import Pool, warm_server
from lightning_modules.sweep.progress import Progress
from lightning_modules.sweep.trial import SETTLED, Plan, Trial
from lightning_modules.task.direction import objective_of
from lightning_modules.tracking.alive import WORKING_DIRECTORY
from lightning_modules.tracking.drift import resume_options
from lightning_modules.tracking.provenance import command_line
from lightning_modules.tracking.store import Store, open_store, require_free_space

SETTINGS: dict[str, Any] = {
    "name": str | int | None, "resume": str | int | None, "jobs": int | None, "retries": int, "skip_finished": bool
}  # fmt: skip


class AllFailedError(UserError):
    """No trial of a sweep came to its end."""


def drive(sweeper: Any, words: list[str]) -> list[Any]:
    """Run the sweep of this command, or go on with it; return its children.

    Raises:
        UserError: the command is wrong, another process has this sweep, or (for a grid) a trial has failed for good.
        Killed: a signal stopped it; it can be gone on with.
    """
    config = sweeper.config
    sweeper.kind = kind_of(config, sweeper.kind)
    check_settings(config)
    warm_server()
    store = open_store(config.tracking.get("uri"))
    run, trusted = None, True
    if config.sweep.resume is not None:
        run = resumed_sweep(store, str(config.sweep.resume))
        recorded = recorded_plan(store, run)
        again = Command.of(words, sweeper.context.config_loader).words
        if recorded and all(word.startswith("resume.allow=") for word in again):
            config, words = _as_recorded(sweeper, recorded, words)
            trusted = False
    name = str((run and run.data.tags["sweep.name"]) or config.sweep.name or _new_name(sweeper.kind))
    check_name(name)
    folder = sweep_folder(store, name)
    require_free_space(folder, int(config.tracking.min_free_mb * 1e6))
    with read_write(sweeper.config.hydra.sweep):
        sweeper.config.hydra.sweep.dir = str(folder)  # where launchers put their files
    with hold(folder, name):
        return _Sweep(sweeper, config, words, store, name, folder, trusted).run()


def check_settings(config: DictConfig) -> None:
    """Raise UserError where `sweep` has values that make no sense, or where nothing would be recorded."""
    mistakes = [
        f"sweep.{key}={config.sweep[key]}: {spoken(kind)} is wanted"
        for key, kind in SETTINGS.items()
        if not fits(config.sweep[key], kind)
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


def recorded_plan(store: Store, run: Any) -> dict[str, Any] | None:
    """What the sweep was told when it began; None where it was cut off before it could be kept."""
    from lightning_modules.tracking.artifacts import artifact

    try:
        return dict(json.loads(artifact(store, run, "sweep/plan.json").read_text()))
    except UserError:
        return None


def _as_recorded(sweeper: Any, recorded: dict[str, Any], words: list[str]) -> tuple[DictConfig, list[str]]:
    """The config and the overrides of ``-m sweep.resume=ID`` alone: those that the sweep began with."""
    refuse_untrusted_overrides(recorded["words"], "the recorded command of the sweep")
    words = [*recorded["words"], *words]
    chosen = [] if recorded["sweeper"] == "budget" else [f"hydra/sweeper={recorded['sweeper']}"]
    config = sweeper.context.config_loader.load_configuration("train", [*words, *chosen], run_mode=RunMode.MULTIRUN)
    sweeper.kind = recorded["sweeper"]
    return config, words


def _new_name(kind: str) -> str:
    return "budget-" * (kind == "budget") + datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


class _Sweep:
    """One sweep while this process holds it."""

    def __init__(
        self,
        sweeper: Any,
        config: DictConfig,
        words: list[str],
        store: Store,
        name: str,
        folder: Path,
        trusted: bool,
    ) -> None:
        self.sweeper, self.config, self.store, self.name, self.folder = sweeper, config, store, name, folder
        self.trusted = trusted
        self.command = Command.of(words, sweeper.context.config_loader)
        if sweeper.kind == "budget":
            self.command, self.told = without_budget(self.command)
        self.launcher = sweeper.chosen_launcher()
        cores, gpus, each = allowed_cores(), *_gpus(config)
        self.pool = Pool(shares(config.sweep.jobs or 1, cores, gpus, each), folder / "logs")
        self.signals: list[int] = []  # that asked the sweep to stop
        self.plan: Plan
        self.ledger: Ledger

    def run(self) -> list[Any]:
        self.plan = self._plan()
        self._check_configs()
        with signals_raise(), contextlib.ExitStack() as opening:
            opening.enter_context(undisturbed())  # the sweep's run must not be left RUNNING
            self.ledger = self._open()
            try:
                opening.close()
                return self._conclude(self._run_trials())
            except BaseException as error:
                if not self.ledger.has_ended:
                    killed = self.signals or isinstance(error, Killed | KeyboardInterrupt)
                    with contextlib.suppress(Exception):  # a store that is gone does not hide what happened
                        self.ledger.end("KILLED" if killed else "FAILED", str(error) or type(error).__name__)
                raise

    def _run_trials(self) -> list[Any]:
        if isinstance(self.plan, Grid | Listed):
            self.plan.skip(
                {int(run.data.tags["sweep.trial"]) for run in self.ledger.runs()} | set(self.ledger.linked())
            )
        progress = Progress(self.ledger, self.plan, self._again())
        timeout = self.config.search.get("timeout_s") if self.plan.waits else None
        engine = Engine(
            self.plan, self.ledger, self._runner(), self._words_of, self.config.sweep.retries, progress.ended,
            time.time() + timeout if timeout else None,
        )  # fmt: skip
        self.signals = engine.signals
        progress.begin(engine.runner.room())
        engine.run()
        return progress.end(shown=self.sweeper.plan is None)

    def _conclude(self, children: list[Any]) -> list[Any]:
        """Give the sweep's run its status, and this process its exit code."""
        if self.signals:
            self.ledger.end("KILLED")
            print(f"go on with: {self._again()}")
            raise Killed(self.signals[0])
        failed = [child for child in children if child.status not in SETTLED]
        if failed and len(failed) == len(children):
            self.ledger.end("FAILED", "every trial failed")
            raise AllFailedError(f"every trial failed; the first one: {failed[0].error}")
        if isinstance(self.plan, BudgetPlan) and (missed := conclude(self.ledger, self.plan, children)):
            self.ledger.end("FAILED", missed)
            raise UserError(missed)
        self.ledger.end("FINISHED")
        if failed and isinstance(self.plan, Grid):
            again = f"{self._again()} sweep.retries={self.config.sweep.retries + 1}"
            raise UserError(
                f"{len(failed)} of {len(children)} trials failed; all others stand. Try them again: {again}"
            )
        return children

    def _plan(self) -> Plan:
        if self.sweeper.plan is not None:
            plan: Plan = self.sweeper.plan
            return plan
        if self.sweeper.kind == "budget":
            return budget_plan(self.config, self.told, self.store, self.folder, self.name)
        objectives = objective_of(self.config.task.monitor)
        if self.sweeper.kind == "grid":
            return Grid(self.command.swept, objectives)
        from lightning_modules.sweep.settings import SearchSettings
        from lightning_modules.sweep.space import check_keys, parse_space
        from lightning_modules.sweep.study import Search

        settings = SearchSettings.from_config(self.config.search)
        space = parse_space(self.config.search.space, self.command.words)
        check_keys(space, self.config, PROJECT_ROOT / "conf")
        wanted, epochs = dict(settings.objectives) or objectives, self.config.trainer.max_epochs
        return Search(settings, space, wanted, self.folder, self.name, epochs)

    def _check_configs(self) -> None:
        """Compose and check, in a warm process, a config with each value of each swept key. Raises UserError."""
        from lightning_modules.sweep.job import check

        samples = self._samples()
        mistakes = self.pool.call(check, samples, self.trusted)
        if not mistakes and self.sweeper.kind == "budget":
            mistakes = self.pool.call(try_attempt, samples[-1])
        if mistakes:
            raise UserError("\n".join(mistakes))

    def _samples(self) -> list[list[str]]:
        if not isinstance(self.plan, Grid | BudgetPlan | Listed):
            return []
        return [[*self.command.fixed, *point] for point in self.plan.samples()]

    def _open(self) -> Ledger:
        """Find the sweep's run in the store, or make it. Raises UserError where one of this name is another sweep."""
        plan = plan_of(self.sweeper.kind, self.command, self.config)
        if isinstance(self.plan, Listed):
            plan["swept"] = self.plan.identity
        found = find_sweep(self.store, f"tags.`sweep.name` = '{self.name}'")
        recorded = recorded_plan(self.store, found) if found else None
        if recorded:
            refuse_other(self.name, recorded, plan)
        run = found or self._new_run()
        self.store.client.update_run(run.info.run_id, status="RUNNING")
        if not recorded:
            self.store.client.log_text(run.info.run_id, json.dumps(plan, indent=1), "sweep/plan.json")
        return Ledger(self.store, run, self.folder)

    def _new_run(self) -> Any:
        tags = {
            "touchstone.kind": "sweep",
            "sweep.name": self.name,
            "sweep.keys": json.dumps(self.plan.keys),
            "sweep.objectives": json.dumps(self.plan.objectives),
            "touchstone.command": command_line(),
            WORKING_DIRECTORY: str(Path.cwd()),
            "mlflow.source.name": "touchstone train",
            "mlflow.source.type": "LOCAL",
            **self.sweeper.tags,
        }
        experiment = self.store.experiment(self.config.tracking.experiment)
        return self.store.client.create_run(experiment, run_name=str(self.config.name or self.name), tags=tags)

    def _runner(self) -> Runner:
        if self.launcher is None:
            return self.pool
        return Launched(self.launcher, self.config.sweep.jobs or (1 if self.plan.waits else None))

    def _words_of(self, trial: Trial, run_id: str | None) -> list[str]:
        job = Job(
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
        return [*self.command.fixed, *trial.words, job.word()]

    def _again(self) -> str:
        return self.sweeper.again or f"touchstone train -m sweep.resume={self.name}"


def _gpus(config: DictConfig) -> tuple[list[str], int]:
    """The GPUs that runs may share out, and how many each takes."""
    if config.trainer.accelerator not in ("gpu", "cuda", "auto"):
        return [], 0
    gpus, devices = visible_gpus(), config.trainer.devices
    each = devices if isinstance(devices, int) and devices > 0 else len(gpus)
    return gpus, each
