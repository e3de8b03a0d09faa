"""One trial of a sweep as a run in a process of its own, composed from plain overrides.

`ProcessPool` calls `trial_process_main`, a launcher of Hydra `run_launched_trial`; both end in `run_trial`.
Longer than 200 lines: the steps from a job to its recorded run.
"""

import contextlib
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, open_dict

from lightning_modules.compat.lightning import set_rank_command
from lightning_modules.config.command_line import complete_choices, compose_run, format_error
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PACKAGE
from lightning_modules.config.signals import RunStopped
from lightning_modules.strategy.launch.environment import Slot, pin
from lightning_modules.sweep.plans import DONE_STATES, Trial
from lightning_modules.sweep.sweep_store import SweepStore, trial_tags
from lightning_modules.tracking.tags import HEARTBEAT_TAG, MODEL_ID_TAG, SWEEP_LINK_TAG

JOB_KEY = "sweep.job="  # the override that makes a run the run of a trial


@dataclass(frozen=True)
class TrialJob:
    """A trial as it travels to its process: one override of the run's command.

    Attributes:
        parent: id of the sweep's run; sweep: its name; pid, host: of the process that runs it.
        run_id: the run to continue.
        skip_finished: reuse a finished run of the same signature instead.
        pruning: settings of `PruningClient`, if a search prunes.
        heartbeat: whether to signal other machines that the run is alive.
        trusted: whether the user gave the overrides; recorded ones may name components only.
        folder: where the sweep was started: relative paths of its overrides are relative to it.
    """

    parent: str
    sweep: str
    number: int
    params: dict[str, object]
    name: str
    pid: int
    host: str
    run_id: str | None = None
    skip_finished: bool = False
    pruning: dict[str, object] | None = None
    heartbeat: bool = False
    trusted: bool = True
    folder: str | None = None

    def to_override(self) -> str:
        return JOB_KEY + QuotedString(json.dumps(asdict(self), default=str), Quote.single).with_quotes()


def trial_process_main(overrides: Sequence[str], slot: Slot, log: str) -> str | None:
    """Run a trial in this process, with its output in the file `log`; return its error."""
    sys.stdout.flush()
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    pin(slot)
    try:
        return run_trial(compose_run(overrides), overrides)
    except Exception as error:  # before the run started, for example on a full disk
        traceback.print_exc()
        return _error_text(error)


def run_launched_trial(cfg: DictConfig) -> str | None:
    """Run the trial of a job that a launcher of Hydra has composed and started; return its error."""
    from hydra.core.hydra_config import HydraConfig

    from lightning_modules.config.trust import trust_packages
    from lightning_modules.sweep.launcher_runner import requeue_on_preemption

    overrides = list(HydraConfig.get().overrides.task)
    if TrialJob(**json.loads(cfg.sweep.job)).trusted:
        trust_packages(cfg)
    with requeue_on_preemption():
        return run_trial(complete_choices(cfg), overrides)


def _error_text(error: Exception) -> str:
    """The error's message, short enough for the pipe to the sweep, which is read after this process has ended."""
    return (format_error(error) or f"{type(error).__name__}: {error}")[:5000]


def run_trial(cfg: DictConfig, overrides: Sequence[str]) -> str | None:
    """Run the trial that ``cfg.sweep.job`` names; return its error.

    The run is recorded in any case, as FAILED with its error if it could not start.
    """
    from lightning_modules.config.trust import refuse_untrusted_targets
    from lightning_modules.run.process import is_rank_zero
    from lightning_modules.sweep.sweep_command import sweep_folder
    from lightning_modules.tracking.store import open_store

    job = TrialJob(**json.loads(cfg.sweep.job))
    if not job.trusted:
        refuse_untrusted_targets(cfg, f"the recorded command of the sweep {job.sweep}")
    store = open_store(cfg.tracking.get("uri"))
    sweep_store = SweepStore(store, store.client.get_run(job.parent), sweep_folder(store, job.sweep))
    with trial_lock(sweep_store, job) if is_rank_zero() else contextlib.nullcontext(job) as locked:
        if locked is None:
            return None
        job = locked if is_rank_zero() else _join_rank_zero(sweep_store, locked)
        # Lightning starts the other ranks with this process's command, which must not start the sweep again
        words = [*(word for word in overrides if not word.startswith(JOB_KEY)), job.to_override()]
        set_rank_command([str(PACKAGE / "cli" / "train.py"), *words])
        _strip_sweep_config(cfg, job)
        if job.folder and Path(job.folder).is_dir():
            os.chdir(job.folder)
        return _run_and_record(cfg, sweep_store, job)


@contextlib.contextmanager
def trial_lock(sweep_store: SweepStore, job: TrialJob) -> Iterator[TrialJob | None]:
    """Wait until no other process runs the trial; give the job with the run to continue, or None if the trial is done.

    A killed sweep may leave a process behind that has the trial but no run yet; the resumed sweep starts the trial again.
    """
    from filelock import FileLock

    folder = sweep_store.folder / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{job.number}.lock"):
        runs = sweep_store.runs(job.number)
        if runs and sweep_store.outcome_of(runs[-1]).state in DONE_STATES:
            yield None
            return
        run_id = job.run_id or (runs[-1].info.run_id if runs else None)
        if run_id:
            _take_over_run(sweep_store, run_id)
        yield replace(job, run_id=run_id)


def _take_over_run(sweep_store: SweepStore, run_id: str) -> None:
    """Make this process the run's, before the run is RUNNING again; complete a run that was interrupted while created."""
    from lightning_modules.tracking.liveness import process_tags
    from lightning_modules.tracking.record import add_model

    store = sweep_store.store
    run = store.client.get_run(run_id)
    if MODEL_ID_TAG not in run.data.tags:
        add_model(store, run, {})  # its config is not composed yet
    store.set_tags(run_id, process_tags())


def _join_rank_zero(sweep_store: SweepStore, job: TrialJob) -> TrialJob:
    """The job with the run that rank 0 continues, when Slurm has restarted all ranks.

    A run without a model is one that rank 0 is creating: there is nothing to continue yet.
    """
    runs = [run for run in sweep_store.runs(job.number) if MODEL_ID_TAG in run.data.tags]
    return replace(job, run_id=job.run_id or (runs[-1].info.run_id if runs else None))


def _run_and_record(cfg: DictConfig, sweep_store: SweepStore, job: TrialJob) -> str | None:
    from lightning_modules.run.run import run
    from lightning_modules.sweep.sweep_callback import PruningClient, SweepCallback
    from lightning_modules.tracking.liveness import process_tags
    from lightning_modules.tracking.run_cache import CachedRun

    trial = Trial(job.number, job.params, ())
    tags = trial_tags(job.parent, trial) | process_tags()
    try:
        with _heartbeat(sweep_store, job):
            pruning = PruningClient(job.pruning, job.number) if job.pruning else None
            callback = SweepCallback(sweep_store.stop_file, job.pid, job.host, pruning, list(sweep_store.objectives))
            run(cfg, tags, [callback], job.run_id, job.skip_finished)
    except CachedRun as cached:
        sweep_store.tag({f"{SWEEP_LINK_TAG}{job.number}": cached})
    except RunStopped:
        pass
    except Exception as error:
        message = _error_text(error)
        print(message, file=sys.stderr)
        is_mistake = isinstance(error, UserError) and not error.transient
        sweep_store.fail(trial, message, job.name, is_mistake)
        return message
    return None


def _strip_sweep_config(cfg: DictConfig, job: TrialJob) -> None:
    with open_dict(cfg):
        cfg.name = job.name
        cfg.sweep = None
        cfg.overrides = [override for override in cfg.overrides if not override.startswith(JOB_KEY)]
        if cfg.callbacks and "progress" in cfg.callbacks:
            cfg.callbacks.progress = None


@contextlib.contextmanager
def _heartbeat(sweep_store: SweepStore, job: TrialJob) -> Iterator[None]:
    """Write the time into a tag of the run at intervals, if another machine needs to know that the run is alive."""
    from lightning_modules.tracking.liveness import HEARTBEAT_SECONDS

    if not job.heartbeat or job.host == platform.node():
        yield
        return
    done = threading.Event()

    def beat() -> None:
        pause = 1.0  # until the run exists
        while not done.wait(pause):
            with contextlib.suppress(Exception):  # the store may be unreachable for a while
                for run in sweep_store.runs(job.number):
                    sweep_store.store.client.set_tag(run.info.run_id, HEARTBEAT_TAG, str(time.time()))
                    pause = HEARTBEAT_SECONDS

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def check_configs(points: Sequence[Sequence[str]], trusted: bool = True) -> list[str]:
    """The mistakes in the configs of these overrides, each once. `trusted`: as in `TrialJob`."""
    from lightning_modules.config.check import check_config
    from lightning_modules.config.trust import refuse_untrusted_targets

    mistakes: dict[str, None] = {}
    for overrides in points:
        try:
            cfg = compose_run(overrides)
            if not trusted:
                refuse_untrusted_targets(cfg, "the recorded command of the sweep")
            check_config(cfg)
        except Exception as error:
            mistakes[format_error(error) or f"{type(error).__name__}: {error}"] = None
    return list(mistakes)
