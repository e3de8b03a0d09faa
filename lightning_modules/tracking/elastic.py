"""Restarts by torchrun: the run resumes from its last checkpoint, and a user's mistake is reported once."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, MutableMapping

from omegaconf import DictConfig

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import runs_folder
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.resume import ResumedRun, continue_run
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import MODEL_ID_TAG, RESTARTS_TAG, TORCHRUN_JOB_TAG

_PEER_WAIT_S = 5.0  # in which rank 0 reports a mistake before torchrun sees another rank exit


def torchrun_job() -> str | None:
    """A key of this process's torchrun job, the same in all its attempts; None if torchrun does not restart.

    Raises UserError if the job has no name that all its nodes share.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None or _max_restarts() == 0:
        return None
    if name == "none":  # no --rdzv-id and no --standalone
        if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"torchrun --max-restarts={_max_restarts()}: a job on several nodes needs a name to find its run after a "
                "restart: add --rdzv-id=NAME, the same on all nodes (or use --max-restarts=0)"
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
    """Find the run of an earlier attempt of this torchrun job in order to resume it; None if there is none.

    It is identified by the job's name (which may be reused), overrides and data, not by the number of the attempt: a node
    that replaces a lost one counts from 0.

    Args:
        fingerprint: of the data.
        marks: tags of the run; the tag by which the next attempt finds it is added.
        lead: whether this is rank 0.
    """
    job = torchrun_job()
    if job is None:
        return None
    said = [job, list(cfg.get("overrides", [])), fingerprint]
    marks[TORCHRUN_JOB_TAG] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    condition = f"tags.`{TORCHRUN_JOB_TAG}` = '{marks[TORCHRUN_JOB_TAG]}' AND attributes.status != 'FINISHED'"
    run = store.newest_run(condition, store.experiment(cfg.tracking.experiment))
    if run is None or (not lead and MODEL_ID_TAG not in run.data.tags):  # rank 0 is creating it
        return None
    if lead and run.info.status == "RUNNING" and is_alive(run.data.tags):
        raise UserError(
            f"torchrun: another job with this name is training run {run.info.run_id}; choose another --rdzv-id"
        )
    resumed = continue_run(store, run.info.run_id, cfg, alone=lead)
    if lead:
        marks[RESTARTS_TAG] = str(int(run.data.tags.get(RESTARTS_TAG, "0")) + 1)
        how = "has no checkpoint yet; restarting from scratch"
        if resumed.checkpoint is not None:
            how = f"resumes after epoch {int(read_checkpoint(resumed.checkpoint)['epoch']) + 1}"
        named = f"run {run.info.run_name} ({run.info.run_id})"
        print(f"torchrun restarted the ranks: {named} {how}", flush=True)
    return resumed


@contextlib.contextmanager
def report_once(lead: bool) -> Iterator[None]:
    """Report a mistake found before training only on rank 0 and only in torchrun's first attempt.

    No exit code keeps torchrun from restarting; the other attempts exit silently.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    job = torchrun_job()
    told = runs_folder() / "work" / f"torchrun-{job}.told"
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if job and attempt and told.exists():
        if attempt >= _max_restarts() and lead:
            told.unlink()
        raise SystemExit(1)
    if job and lead:
        told.unlink(missing_ok=True)  # of an earlier job with this name
    try:
        yield
    except UserError as error:
        if lead and job and attempt < _max_restarts():
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text(str(error), encoding="utf-8")
        if not lead:
            time.sleep(_PEER_WAIT_S)  # meanwhile torchrun stops this rank if rank 0 reported the same mistake
            if attempt or (told.exists() and told.read_text(encoding="utf-8") == str(error)):
                raise SystemExit(1) from None
        raise
