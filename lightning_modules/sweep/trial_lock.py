"""One attempt at a trial: by one process at a time, and in the one run that the trial has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_modules.sweep.plans import DONE_STATES
from lightning_modules.tracking.liveness import process_tags

if TYPE_CHECKING:
    from lightning_modules.sweep.sweep_store import SweepStore
    from lightning_modules.sweep.trial_job import TrialJob
    from lightning_modules.tracking.store import Store


@contextlib.contextmanager
def trial_lock(ledger: SweepStore, job: TrialJob) -> Iterator[TrialJob | None]:
    """Wait until no other process has the trial; give the job with the run to go on in, None where nothing is left to do.

    A sweep that was killed may leave a process behind that has the trial but no run yet. The store knows nothing of it,
    and the sweep that goes on starts the trial once more.
    """
    from filelock import FileLock

    from lightning_modules.run.process import is_rank_zero

    if not is_rank_zero():  # its rank 0 holds the lock
        yield job
        return
    folder = ledger.folder / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{job.number}.lock"):
        runs = ledger.runs(job.number)
        if runs and ledger.outcome_of(runs[-1]).state in DONE_STATES:
            yield None
            return
        run_id = job.run_id or (runs[-1].info.run_id if runs else None)
        if run_id:
            _take_over_run(ledger.store, run_id)
        yield replace(job, run_id=run_id)


def _take_over_run(store: Store, run_id: str) -> None:
    """Make the run that of this process, before it says RUNNING again; complete one that was cut off as it was made."""
    from mlflow.entities import RunTag

    from lightning_modules.tracking.record import add_model

    run = store.client.get_run(run_id)
    if "touchstone.model_id" not in run.data.tags:
        add_model(store, run)
    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in process_tags().items()])
