"""One trial of a sweep as a run of its own: composed anew from plain overrides, in a process that has run nothing else."""

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
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, open_dict

from lightning_modules.compat.lightning import set_rank_command
from lightning_modules.config.command_line import complete_choices, compose_run, format_error
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.config.signals import RunStopped
from lightning_modules.sweep.plans import Trial
from lightning_modules.sweep.resources import Slot, pin

JOB_KEY = "sweep.job="  # the override that makes a run the run of a trial


@dataclass(frozen=True)
class TrialJob:
    """Which trial a run is; it travels as one override of the run's command.

    Attributes:
        parent: id of the sweep's run; sweep: its name; pid, host: of the process that drives it.
        run_id: the run to go on in.
        skip_finished: link a finished run of the same signature instead.
        judge: what `Judge` needs, where a search prunes.
        beats: whether the run gives signs of life to other machines.
        trusted: whether the user gave the overrides; those of a recorded sweep may name components only.
        folder: where the sweep was started: relative paths of its overrides are relative to it.
    """

    parent: str
    sweep: str
    number: int
    params: dict[str, Any]
    name: str
    pid: int
    host: str
    run_id: str | None = None
    skip_finished: bool = False
    judge: dict[str, Any] | None = None
    beats: bool = False
    trusted: bool = True
    folder: str | None = None

    def word(self) -> str:
        """The job as an override."""
        return JOB_KEY + QuotedString(json.dumps(asdict(self), default=str), Quote.single).with_quotes()


def trial_process_main(overrides: Sequence[str], slot: Slot, log: str) -> str | None:
    """Run a trial in this process, which is its own, with its output in the file `log`; return what went wrong."""
    _redirect_output(Path(log))
    pin(slot)
    try:
        return run_trial(compose_run(overrides), overrides)
    except Exception as error:  # before the run began, as on a disk that is full
        traceback.print_exc()
        return _error_text(error)


def _error_text(error: Exception) -> str:
    """The error's message; cut, because nobody reads what the process answers before it has ended."""
    return (format_error(error) or f"{type(error).__name__}: {error}")[:5000]


def _redirect_output(log: Path) -> None:
    sys.stdout.flush()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def run_trial(cfg: DictConfig, overrides: Sequence[str]) -> str | None:
    """Run the trial that ``cfg.sweep.job`` names; return the error's message, None where it did as it was told.

    The run itself stands in the store whatever happens, FAILED with its message where it could not begin.
    """
    from lightning_modules.config.trust import refuse_untrusted_targets
    from lightning_modules.run.process import is_rank_zero
    from lightning_modules.sweep.sweep_lookup import sweep_folder
    from lightning_modules.sweep.sweep_store import SweepStore
    from lightning_modules.sweep.trial_lock import trial_lock
    from lightning_modules.tracking.store import open_store

    job = TrialJob(**json.loads(cfg.sweep.job))
    if not job.trusted:
        refuse_untrusted_targets(cfg, f"the recorded command of the sweep {job.sweep}")
    store = open_store(cfg.tracking.get("uri"))
    ledger = SweepStore(store, store.client.get_run(job.parent), sweep_folder(store, job.sweep))
    with trial_lock(ledger, job) as found:
        if found is None:
            return None
        if not is_rank_zero():
            found = _join_first_rank(ledger, found)
        _reset_argv([*(word for word in overrides if not word.startswith(JOB_KEY)), found.word()])
        _strip_sweep_config(cfg, found)
        if found.folder and Path(found.folder).is_dir():
            os.chdir(found.folder)
        return _run_and_record(cfg, ledger, found)


def _join_first_rank(ledger: Any, job: TrialJob) -> TrialJob:
    """The job with the run that the first rank goes on in, where Slurm has started all of them again.

    One without a model is only just being made by the first rank: there is nothing in it to go on from.
    """
    runs = [run for run in ledger.runs(job.number) if "touchstone.model_id" in run.data.tags]
    return replace(job, run_id=job.run_id or (runs[-1].info.run_id if runs else None))


def _run_and_record(cfg: DictConfig, ledger: Any, job: TrialJob) -> str | None:
    from lightning_modules.run.run import run
    from lightning_modules.sweep.sweep_store import trial_tags
    from lightning_modules.tracking.liveness import process_tags
    from lightning_modules.tracking.run_cache import CachedRun

    trial = Trial(job.number, job.params, ())
    tags = trial_tags(job.parent, trial) | process_tags()
    try:
        with _heartbeat(ledger, job):
            run(cfg, tags, [_sweep_callback(ledger, job)], job.run_id, job.skip_finished)
    except CachedRun as known:
        ledger.tag({f"sweep.link.{job.number}": known})
    except RunStopped:
        pass
    except Exception as error:
        message = _error_text(error)
        print(message, file=sys.stderr)
        ledger.fail(trial, message, job.name)
        return message
    return None


def _reset_argv(overrides: Sequence[str]) -> None:
    """Make this process look as if ``touchstone train`` had been called with these overrides, without ``-m``.

    Lightning starts the other ranks of a run by this process's command; with the sweep's command they would begin the
    whole sweep anew, and train with the hyper-parameters of another trial.
    """
    set_rank_command([str(PROJECT_ROOT / "lightning_modules" / "cli" / "train.py"), *overrides])


def _strip_sweep_config(cfg: DictConfig, job: TrialJob) -> None:
    with open_dict(cfg):
        cfg.name = job.name
        cfg.sweep = None
        cfg.overrides = [word for word in cfg.overrides if not word.startswith(JOB_KEY)]
        if cfg.callbacks and "progress" in cfg.callbacks:
            cfg.callbacks.progress = None  # nobody looks at it


def _sweep_callback(ledger: Any, job: TrialJob) -> Any:
    from lightning_modules.sweep.sweep_callback import PruningClient, SweepCallback

    judge = PruningClient(job.judge, job.number) if job.judge else None
    return SweepCallback(ledger.stop_file, job.pid, job.host, judge, list(ledger.objectives))


@contextlib.contextmanager
def _heartbeat(ledger: Any, job: TrialJob) -> Iterator[None]:
    """Write the time into a tag of the run every so often, where another machine has to know whether it lives."""
    from lightning_modules.tracking.liveness import HEARTBEAT_SECONDS

    if not job.beats or job.host == platform.node():
        yield
        return
    over = threading.Event()

    def beat() -> None:
        pause = 1.0  # until the run is there
        while not over.wait(pause):
            with contextlib.suppress(Exception):  # a store that is away for a while is no reason to end
                for run in ledger.runs(job.number):
                    ledger.store.client.set_tag(run.info.run_id, "touchstone.heartbeat", str(time.time()))
                    pause = HEARTBEAT_SECONDS

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def check_configs(points: Sequence[Sequence[str]], trusted: bool = True) -> list[str]:
    """What is wrong with the configs that these overrides make; each mistake once. `trusted`: as in `Job`."""
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


def run_launched_trial(cfg: DictConfig) -> str | None:
    """The trial of a job that one of Hydra's launchers has composed and started; as `run_trial`."""
    from hydra.core.hydra_config import HydraConfig

    from lightning_modules.sweep.slurm_requeue import requeue_on_preemption

    overrides = list(HydraConfig.get().overrides.task)
    with requeue_on_preemption():
        return run_trial(complete_choices(cfg), overrides)
