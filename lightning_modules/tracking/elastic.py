"""Runs that torchrun starts again by itself: they go on from their last checkpoint, and a mistake is told once."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

from omegaconf import DictConfig

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.resume import ResumedRun, continue_run
from lightning_modules.tracking.store import Store

JOB_TAG = "touchstone.torchrun"
RESTARTS_TAG = "touchstone.restarts"
_PEER_WAIT_S = 5.0  # that the first rank has to tell a mistake before torchrun sees another one end


def torchrun_job() -> str | None:
    """A key of the torchrun job of this process, the same in all its attempts; None where torchrun will not start it again.

    Raises UserError where the job has no name that all its machines know.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None or _max_restarts() == 0:
        return None
    if name == "none":  # no --rdzv-id and no --standalone
        if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"torchrun --max-restarts={_max_restarts()}: on several machines the job needs a name by which its run is "
                "found again: add --rdzv-id=NAME, the same on all of them (or take --max-restarts=0)"
            )
        import psutil

        agent = psutil.Process(os.getppid())
        name = f"{platform.node()} {agent.pid} {agent.create_time()}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _max_restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def resume_after_restart(
    store: Store, cfg: DictConfig, fingerprint: str, marks: MutableMapping[str, str], lead: bool
) -> ResumedRun | None:
    """Find the run that an earlier attempt of this torchrun job has left, to go on in it; None where there is none.

    The number of the attempt does not decide: a machine that takes the place of a lost one counts from 0. Nor does the
    name of the job alone, which may have been used before: the run has the same overrides and data as well.

    Args:
        fingerprint: of the data.
        marks: tags of the run; those by which the next attempt finds it are added.
        lead: whether this process records.
    """
    job = torchrun_job()
    if job is None:
        return None
    said = [job, list(cfg.get("overrides", [])), fingerprint]
    marks[JOB_TAG] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    run = _interrupted_run(store, cfg.tracking.experiment, marks[JOB_TAG])
    if run is None or (not lead and "touchstone.model_id" not in run.data.tags):  # the first rank is just making it
        return None
    if lead and run.info.status == "RUNNING" and is_alive(run.data.tags):
        raise UserError(f"torchrun: a job of this name is training run {run.info.run_id}: choose another --rdzv-id")
    resumed = continue_run(store, run.info.run_id, cfg, alone=lead)
    if lead:
        marks[RESTARTS_TAG] = str(int(run.data.tags.get(RESTARTS_TAG, "0")) + 1)
        print(f"torchrun has started the ranks again: {_checkpoint_text(run, resumed)}", flush=True)
    return resumed


def _interrupted_run(store: Store, experiment: str, key: str) -> Any:
    found = store.client.search_runs(
        [store.experiment(experiment)],
        f"tags.`{JOB_TAG}` = '{key}' AND attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


def _checkpoint_text(run: Any, resumed: ResumedRun) -> str:
    named = f"run {run.info.run_name} ({run.info.run_id})"
    if resumed.checkpoint is None:
        return f"{named} had no checkpoint yet and begins anew"
    return f"{named} goes on after epoch {int(read_checkpoint(resumed.checkpoint)['epoch']) + 1}"


@contextlib.contextmanager
def report_once(lead: bool) -> Iterator[None]:
    """Tell a mistake made before training by the first rank alone, and in the first of torchrun's attempts alone.

    torchrun knows no exit code that would keep it from trying again; the other attempts end at once, without a word.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    job = torchrun_job()
    told = PROJECT_ROOT / "mlruns" / "work" / f"torchrun-{job}.told"
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if job and attempt and told.exists():
        if attempt >= _max_restarts() and lead:
            told.unlink()
        raise SystemExit(1)
    if job and lead:
        told.unlink(missing_ok=True)  # of an earlier job of this name
    try:
        yield
    except UserError as error:
        if lead and job and attempt < _max_restarts():
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text(str(error), encoding="utf-8")
        if not lead:
            time.sleep(_PEER_WAIT_S)  # torchrun ends this rank meanwhile, where the first one has the same to say
            if attempt or (told.exists() and told.read_text(encoding="utf-8") == str(error)):
                raise SystemExit(1) from None
        raise
