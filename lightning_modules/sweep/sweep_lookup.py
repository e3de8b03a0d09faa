"""Which sweeps there are: in the store by name or id, on the disk by folder, and who has one now."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run


class SweepBusyError(UserError):
    """Another process is running this sweep."""


def sweep_folder(store: Store, name: str) -> Path:
    """Where the files of a sweep lie: ``sweeps/NAME`` beside the store, or in this project's mlruns for a server."""
    return store.folder / "sweeps" / name


def check_sweep_name(name: str) -> None:
    """Raise UserError for a name that could not be a folder's."""
    if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
        raise UserError(f"sweep={name}: a name has letters, digits, '_', '-' and '.', at most 100 of them")


def find_sweep(store: Store, condition: str) -> "Run | None":
    """The newest sweep's run that MLflow's filter finds, or None."""
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(
        everywhere, f"tags.`touchstone.kind` = 'sweep' AND {condition}", 1, 2, ["attributes.start_time DESC"]
    )
    return found[0] if found else None


def recent_sweep_names(store: Store) -> list[str]:
    """The names of the newest sweeps of the store."""
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(
        everywhere, "tags.`touchstone.kind` = 'sweep'", 1, 50, ["attributes.start_time DESC"]
    )
    return [run.data.tags["sweep.name"] for run in runs]


def find_sweep_to_resume(store: Store, wanted: str) -> "Run":
    """The sweep of ``sweep.resume=WANTED``: a run's id or its beginning, or a sweep's name. Raises UserError."""
    run = None
    if re.fullmatch(r"[0-9a-f]{6,32}", wanted):
        run = find_sweep(store, f"attributes.run_id LIKE '{wanted}%'")
    if run is None and re.fullmatch(r"[\w.-]+", wanted):
        run = find_sweep(store, f"tags.`sweep.name` = '{wanted}'")
    if run is None:
        names = recent_sweep_names(store)
        known = suggest(wanted, names) if names else "the store has no sweep yet"
        raise UserError(f"sweep.resume={wanted}: there is no sweep with this id or name; {known}")
    return run


def lock_sweep(folder: Path, name: str) -> FileLock:
    """Keep other processes out of this sweep until the lock is released. Raises BusyError where one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepBusyError(f"sweep={name}: another process is running this sweep ({folder / 'lock'})") from None
    return lock
