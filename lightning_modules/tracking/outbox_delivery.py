"""Send buffered data (`undelivered`) to the store it belongs to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.outbox import deliver, outbox_folders, read_rows
from lightning_modules.tracking.provenance import mask_secrets
from lightning_modules.tracking.store import Store, open_store, sqlite_path, sqlite_uri


def pending_files(uri: str, run_id: str = "") -> list[Path]:
    """The files of unsent data for a store `uri` (and one run), oldest first."""
    found = [path for folder in dict.fromkeys(outbox_folders(uri)) for path in folder.glob(f"{run_id}*.jsonl")]
    mine = [
        path for path in found if path.stat().st_uid == os.getuid()
    ]  # the temporary folder is shared with other users
    return sorted(mine, key=lambda path: path.stat().st_mtime_ns)


def deliver_run(store: Store, run_id: str) -> None:
    """Send the buffered rows of a run before it resumes or ends, so that no step is stored twice.

    Its files and its status are left to the run itself.
    """
    for path in pending_files(store.uri, run_id):
        deliver(store.client, path, but=("upload", "end"))
        path.unlink()


def deliver_all(source: Store, to: Store | None) -> int:
    """Send all files beside `source` and in the project, each to its own store, and delete them.

    Args:
        source: the local store.
        to: the server given by the user; also for data of a server that has moved there.

    Returns:
        The number of files delivered.

    Raises:
        UserError: some files could not be sent, and remain; the others were sent.
    """
    failures, done = [], 0
    for path in pending_files(source.uri) + [
        path for path in pending_files("http") if path not in pending_files(source.uri)
    ]:
        try:
            rows = read_rows(path)
            store = _target_store(path, rows, source, to) if rows else source
            count = deliver(store.client, path)
        except Exception as error:  # the other files must still be sent
            failures.append(f"{path}: {(str(error).strip().splitlines() or [type(error).__name__])[0][:300]}")
            continue
        path.unlink()
        done += 1
        print(f"sent {count} rows of {path.name} to {mask_secrets(store.uri)}")
    if failures:
        raise UserError("could not send, files kept:\n" + "\n".join(f"  {failure}" for failure in failures))
    return done


def _target_store(path: Path, rows: list[dict[str, object]], source: Store, to: Store | None) -> Store:
    """The store of a file's rows. Raises UserError if it is not available."""
    recorded, run_id = str(rows[0].get("store") or ""), str(rows[0]["run_id"])
    if not recorded or recorded.startswith("sqlite:"):  # the file was moved together with its store
        known = [*([sqlite_path(recorded)] if recorded else []), source.path]
        beside = path.parents[1] / known[0].name
        database = next((place for place in (beside, *known) if place.is_file()), None)
        if database is None:
            raise UserError(f"its store {recorded} does not exist")
        return open_store(sqlite_uri(database))
    if to is not None and (mask_secrets(to.uri) == recorded or _has_run(to, run_id)):
        return to
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if "***" in recorded and mask_secrets(environment) != recorded:
        raise UserError(f"give the server's address with the password: --to {recorded}")
    try:
        return open_store(environment if mask_secrets(environment) == recorded else recorded)
    except UserError as error:
        raise UserError(
            f"its server {recorded} is not responding: start it, or give its new address with --to"
        ) from error


def _has_run(store: Store, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        return bool(store.client.get_run(run_id))
    return False
