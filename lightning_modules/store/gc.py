"""Permanently delete what was deleted in MLflow, and orphaned files.

`mlflow gc` cannot stand behind this: it deletes whatever folder a recorded URI names, also outside of the store, ends at the
first URI of a missing driver, leaves the models of deleted runs, the rows that link them and the folders of experiments, and
has no dry run. Its private `_hard_delete_…` are used for the rows.

Longer than 200 lines: one rule for what is deleted, and its rows and folders.
"""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.compat import mlflow
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import runs_folder
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import KEEP_TAG, SWEEP_NAME_TAG

RUN_ID, MODEL_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}")
LOCK_TIMEOUT_S = 86400.0  # age of a work folder before it counts as orphaned: its process may be on another machine


class SafeDeleter:
    """Deletes folders below `root` that contain nothing to be kept; the only code that deletes folders of a store.

    Args:
        root: nothing outside is deleted, not even through a symbolic link.
        kept: folders whose content must stay.
        occupied: folders that must stay, but whose subfolders may be deleted.
        dry_run: only print and count.

    Attributes:
        freed: bytes; failed: one message for each folder that could not be deleted.
    """

    def __init__(self, root: Path, dry_run: bool, kept: Iterable[Path] = (), occupied: Iterable[Path] = ()) -> None:
        self.root, self._dry_run = root.resolve(), dry_run
        self.freed, self.failed = 0, list[str]()
        self._kept = {path.resolve() for path in kept}
        whole = {path.resolve() for path in occupied}
        self._above = whole | {folder for path in self._kept | whole for folder in path.parents}

    def refusal(self, path: Path) -> str | None:
        """Why `path` must not be deleted, or None."""
        real = path.resolve()
        if real == self.root or not real.is_relative_to(self.root):
            return f"it is outside {self.root}"
        if path.is_symlink():
            return "it is a symbolic link"
        if real in self._above or any(place in self._kept for place in (real, *real.parents)):
            return "it contains files that are not deleted"
        return None

    def clear(self, path: Path, why: str) -> bool:
        """Delete a folder if allowed, and print it; False if the operating system refuses."""
        if not path.is_dir():
            return True
        if reason := self.refusal(path):
            print(f"left {path}: {reason}")
            return True
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_symlink() or file.is_file())
        try:
            if not self._dry_run:
                shutil.rmtree(path)
        except OSError as error:
            self.failed.append(f"{error.filename or path}: {error.strerror}")
            return False
        self.freed += size
        print(f"{'would delete' if self._dry_run else 'deleted'} {path} ({size:,} bytes): {why}")
        return True


def gc(store: Store, dry_run: bool = False) -> int:
    """Delete the rows and files of deleted runs, models and experiments, and orphaned folders; print each.

    Files are deleted before rows, so that the next call finds what failed. Files outside the store's artifact folder,
    of active runs and of registered models stay. For a server, only local work folders are deleted; `mlflow gc` on its
    machine does the rest.

    Returns:
        The bytes freed (or to be freed).

    Raises UserError if some files could not be deleted.
    """
    if store.uri.startswith(("http", "databricks")):
        deleters = [SafeDeleter(runs_folder() / "work", dry_run)]
        _delete_server_work_folders(store, deleters[0])
        print("run `mlflow gc` on the server's machine to delete its runs permanently")
    else:
        deleters = _gc_database(store, dry_run)
    freed, failed = sum(one.freed for one in deleters), [text for one in deleters for text in one.failed]
    print(f"{freed:,} bytes {'would be freed (nothing is deleted: dry_run=true)' if dry_run else 'freed'}")
    if failed:
        raise UserError("not deleted:\n" + "\n".join(f"  {text}" for text in failed))
    return freed


class Garbage(NamedTuple):
    """Ids of deleted runs, models and experiments with their artifact URIs, and the folders that must stay.

    Attributes:
        sweeps: names of sweeps that have no other run.
        kept: folders of active runs, models and registered versions; occupied: folders of active experiments.
        known: ids of all runs and models, deleted or not.
    """

    runs: dict[str, str]
    models: dict[str, str]
    experiments: dict[str, str]
    sweeps: list[str]
    kept: list[Path]
    occupied: list[Path]
    known: set[str]


def find_garbage(database: Any) -> Garbage:
    """Search MLflow's store that is a database."""
    from sqlalchemy import select

    experiment, run, model = (getattr(mlflow.tables(), name) for name in ("SqlExperiment", "SqlRun", "SqlLoggedModel"))
    tag, version = mlflow.tables().SqlTag, mlflow.model_version_table()
    with database.ManagedSessionMaker(read_only=True) as session:

        def rows(table: object, *names: str) -> list[Any]:
            return list(session.execute(select(*(getattr(table, name) for name in names))).all())

        experiments = rows(experiment, "experiment_id", "artifact_location", "lifecycle_stage")
        runs = rows(run, "run_uuid", "artifact_uri", "lifecycle_stage", "experiment_id", "status")
        models = rows(model, "model_id", "artifact_location", "lifecycle_stage", "experiment_id", "source_run_id")
        versions = rows(version, "source", "storage_location", "current_stage")
        sweep_tags = session.execute(select(tag.run_uuid, tag.value).where(tag.key == SWEEP_NAME_TAG)).all()
        gone = {e.experiment_id: e for e in experiments if e.lifecycle_stage == "deleted"}
        dead = {r.run_uuid: r for r in runs if r.lifecycle_stage == "deleted" or r.experiment_id in gone}
        marked = set(session.scalars(select(tag.run_uuid).where(tag.key == KEEP_TAG)))
        for run_id in marked & dead.keys():
            print(f"left run {run_id}: it is kept")
            del dead[run_id]
        for run_id in [run_id for run_id, r in dead.items() if r.status == "RUNNING"]:
            if is_alive(dict(session.execute(select(tag.key, tag.value).where(tag.run_uuid == run_id)).all())):
                print(f"left run {run_id}: it is deleted, but still training")
                del dead[run_id]
    registered = [uri for *uris, stage in versions if stage != "Deleted_Internal" for uri in uris if uri]
    lost = {}
    for m in models:
        if m.lifecycle_stage == "deleted" or m.experiment_id in gone or m.source_run_id in dead:
            if m.source_run_id in marked:
                print(f"left model {m.model_id}: its run is kept")
            elif any(m.model_id in source for source in registered):
                print(f"left model {m.model_id}: it is registered as a model version")
            else:
                lost[m.model_id] = m
    kept = [r.artifact_uri for r in runs if r.run_uuid not in dead] + registered
    kept += [m.artifact_location for m in models if m.model_id not in lost]
    return Garbage(
        runs={run_id: r.artifact_uri for run_id, r in dead.items()},
        models={model_id: m.artifact_location for model_id, m in lost.items()},
        experiments={str(i): e.artifact_location for i, e in gone.items()},
        sweeps=sorted({s for i, s in sweep_tags if i in dead} - {s for i, s in sweep_tags if i not in dead}),
        kept=_local_folders(kept),
        occupied=_local_folders(e.artifact_location for e in experiments if e.experiment_id not in gone),
        known={r.run_uuid for r in runs} | {m.model_id for m in models},
    )


def _local_folders(uris: Iterable[str | None]) -> list[Path]:
    return [folder for uri in uris if uri and (folder := local_folder(uri)) is not None]


def _gc_database(store: Store, dry_run: bool) -> list[SafeDeleter]:
    root = local_folder(store.artifacts or "")
    assert root is not None
    database = mlflow.backend_store(store.client)
    garbage = find_garbage(database)
    artifacts = SafeDeleter(root, dry_run, garbage.kept, garbage.occupied)
    for kind, rows in (("run", garbage.runs), ("model", garbage.models), ("experiment", garbage.experiments)):
        for name, uri in rows.items():
            folder = local_folder(uri or "")
            if folder is None:
                print(f"left {uri}: it is not on this disk")
            else:
                if folder.name == "artifacts" and folder.parent.name == name:
                    folder = folder.parent
                if not artifacts.clear(folder, f"{kind} {name} is deleted"):
                    continue  # its row is found again the next time
            if not dry_run:
                _delete_rows(database, kind, name)
    sweeps = SafeDeleter(root.parent / "sweeps", dry_run)
    for name in garbage.sweeps:
        sweeps.clear(sweeps.root / name, f"the sweep {name} is deleted")
    work = SafeDeleter(root.parent / "work", dry_run)
    _delete_work_folders(garbage, work)
    _delete_orphans(store, garbage.known, artifacts)
    counts = (len(garbage.runs), len(garbage.models), len(garbage.experiments))
    print("{} runs, {} models, {} experiments were deleted ones".format(*counts))
    return [artifacts, sweeps, work]


def _delete_rows(database: Any, kind: str, name: str) -> None:
    """Delete the row and its dependent rows; an experiment only if it is empty."""
    from sqlalchemy import delete, or_, select

    tables = mlflow.tables()
    edge = tables.SqlInput
    ends = or_(edge.source_id == name, edge.destination_id == name)
    with database.ManagedSessionMaker(read_only=False) as session:
        edges = select(edge.input_uuid).where(ends)
        session.execute(delete(tables.SqlInputTag).where(tables.SqlInputTag.input_uuid.in_(edges)))
        session.execute(delete(edge).where(ends))
        if kind == "experiment" and any(
            session.execute(select(table).where(table.experiment_id == int(name)).limit(1)).first()
            for table in (tables.SqlRun, tables.SqlLoggedModel)
        ):
            return
    mlflow.hard_delete(database, kind, name)


def _delete_work_folders(garbage: Garbage, work: SafeDeleter) -> None:
    """Delete work folders of processes that are gone, and of this store's deleted runs."""
    import psutil

    for folder in _folders(work.root):
        if folder.name.isdigit() and len(folder.name) < 12:
            old = time.time() - folder.stat().st_mtime > LOCK_TIMEOUT_S
            if not psutil.pid_exists(int(folder.name)) and (old or not any(folder.iterdir())):
                work.clear(folder, "its process has ended")
        elif folder.name in garbage.runs:
            work.clear(folder, f"run {folder.name} is deleted")
        elif RUN_ID.fullmatch(folder.name) and folder.name not in garbage.known:
            print(f"left {folder}: the run of a server; `tracking.uri=http://…` of that server prunes it")


def _delete_server_work_folders(store: Store, work: SafeDeleter) -> None:
    from mlflow.exceptions import MlflowException

    for folder in _folders(work.root):
        if not RUN_ID.fullmatch(folder.name):
            continue
        try:
            run = store.client.get_run(folder.name)
        except MlflowException as error:
            print(f"left {folder}: the server knows no such run ({error.error_code})")
            continue
        if run.info.lifecycle_stage == "deleted" and KEEP_TAG not in run.data.tags:
            work.clear(folder, f"run {folder.name} is deleted")


def _delete_orphans(store: Store, known: set[str], artifacts: SafeDeleter) -> None:
    """Delete folders of runs and models that the database does not know, unless another database may know them."""
    root = artifacts.root
    others = [path for path in root.parent.glob("*.db") if not store.is_local or path != store.path]
    if not store.is_local or others:
        print(f"folders of no run were not looked for: {', '.join(map(str, others)) or 'others'} may share {root}")
        return
    for folder in _run_and_model_folders(root):
        if folder.name not in known:
            artifacts.clear(folder, "no run of this store")


def _run_and_model_folders(root: Path) -> Iterator[Path]:
    """Folders that are named as those of runs and models: ``EXPERIMENT/RUN`` and ``EXPERIMENT/models/MODEL``."""
    for experiment in _folders(root):
        yield from (folder for folder in _folders(experiment) if RUN_ID.fullmatch(folder.name))
        yield from (folder for folder in _folders(experiment / "models") if MODEL_ID.fullmatch(folder.name))


def _folders(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    return [path for path in found if path.is_dir() and not path.is_symlink()]
