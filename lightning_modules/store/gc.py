"""Permanently delete what was deleted in MLflow, and orphaned files."""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.store.garbage import GarbageInventory, find_garbage
from lightning_modules.tracking.store import Store

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

    def __init__(self, root: Path, kept: Iterable[Path], occupied: Iterable[Path], dry_run: bool) -> None:
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

    Raises:
        UserError: some files could not be deleted.
    """
    if store.uri.startswith(("http", "databricks")):
        root = PROJECT_ROOT / "mlruns" / "work"
        grounds = [SafeDeleter(root, [], [], dry_run)]
        _delete_server_work_folders(store, grounds[0])
        print("run `mlflow gc` on the server's machine to delete its runs permanently")
    else:
        grounds = _gc_database(store, dry_run)
    freed, failed = sum(g.freed for g in grounds), [text for g in grounds for text in g.failed]
    print(f"{freed:,} bytes {'would be freed (nothing is deleted: dry_run=true)' if dry_run else 'freed'}")
    if failed:
        raise UserError("not deleted:\n" + "\n".join(f"  {text}" for text in failed))
    return freed


def _gc_database(store: Store, dry_run: bool) -> list[SafeDeleter]:
    from lightning_modules.tracking.artifacts import local_folder

    assert store.artifacts
    root = local_folder(store.artifacts)
    assert root is not None
    remains = find_garbage(store)
    grounds = SafeDeleter(root, remains.kept, remains.occupied, dry_run)
    for kind, rows in (("run", remains.runs), ("model", remains.models), ("experiment", remains.experiments)):
        for name, uri in rows.items():
            folder = local_folder(uri or "")
            if folder is None:
                print(f"left {uri}: it is not on this disk")
            elif not grounds.clear(_id_of_folder(folder, name), f"{kind} {name} is deleted"):
                continue  # its row is found again the next time
            if not dry_run:
                remains.delete_rows(kind, name)
    sweeps = SafeDeleter(root.parent / "sweeps", [], [], dry_run)
    for name in remains.sweeps:
        sweeps.clear(sweeps.root / name, f"the sweep {name} is deleted")
    work = SafeDeleter(root.parent / "work", [], [], dry_run)
    _delete_work_folders(remains, work)
    _delete_orphans(store, remains, grounds)
    print(
        f"{len(remains.runs)} runs, {len(remains.models)} models, {len(remains.experiments)} experiments were deleted ones"
    )
    return [grounds, sweeps, work]


def _id_of_folder(folder: Path, name: str) -> Path:
    """The folder of a run or model, ``…/NAME`` where its artifacts are ``…/NAME/artifacts``."""
    return folder.parent if folder.name == "artifacts" and folder.parent.name == name else folder


def _delete_work_folders(remains: GarbageInventory, grounds: SafeDeleter) -> None:
    """Delete work folders of processes that are gone, and of this store's deleted runs."""
    import psutil

    for folder in _folders(grounds.root):
        if folder.name.isdigit() and len(folder.name) < 12:
            old = time.time() - folder.stat().st_mtime > LOCK_TIMEOUT_S
            if not psutil.pid_exists(int(folder.name)) and (old or not any(folder.iterdir())):
                grounds.clear(folder, "its process has ended")
        elif folder.name in remains.runs:
            grounds.clear(folder, f"run {folder.name} is deleted")
        elif RUN_ID.fullmatch(folder.name) and folder.name not in remains.known:
            print(f"left {folder}: the run of a server; `--store http://…` of that server prunes it")


def _delete_server_work_folders(store: Store, grounds: SafeDeleter) -> None:
    from mlflow.exceptions import MlflowException

    for folder in _folders(grounds.root):
        if not RUN_ID.fullmatch(folder.name):
            continue
        try:
            stage = store.client.get_run(folder.name).info.lifecycle_stage
        except MlflowException as error:
            print(f"left {folder}: the server knows no such run ({error.error_code})")
            continue
        if stage == "deleted":
            grounds.clear(folder, f"run {folder.name} is deleted")


def _delete_orphans(store: Store, remains: GarbageInventory, grounds: SafeDeleter) -> None:
    """Delete folders of runs and models that the database does not know, unless another database may know them."""
    others = [path for path in grounds.root.parent.glob("*.db") if not store.is_local or path != store.path]
    if not store.is_local or others:
        print(
            f"folders of no run were not looked for: {', '.join(map(str, others)) or 'others'} may share {grounds.root}"
        )
        return
    for folder in _candidates(grounds.root):
        if folder.name not in remains.known:
            grounds.clear(folder, "no run of this store")


def _candidates(root: Path) -> Iterator[Path]:
    """Folders that are named as those of runs and models: ``EXPERIMENT/RUN`` and ``EXPERIMENT/models/MODEL``."""
    for experiment in _folders(root):
        yield from (folder for folder in _folders(experiment) if RUN_ID.fullmatch(folder.name))
        yield from (folder for folder in _folders(experiment / "models") if MODEL_ID.fullmatch(folder.name))


def _folders(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    return [path for path in found if path.is_dir() and not path.is_symlink()]
