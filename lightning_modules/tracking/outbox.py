"""Outbox: metrics, tags, files and final statuses that a store did not accept, buffered in files until it does.

Longer than most: writer and reader of a row are beside each other, and every store that a row may belong to is considered.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.project import runs_folder
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import Store, open_store, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MAX_BATCH = 1000  # metrics per MLflow call


class UnsentDataWarning(UserWarning):
    """The store was unavailable; the message names the file with the unsent data."""


def outbox_folders(uri: str) -> list[Path]:
    """Folders for a store's unsent data, in order of preference: beside the store, then any writable place."""
    beside = sqlite_path(uri).parent if uri.startswith("sqlite:") else runs_folder()
    return [folder / "undelivered" for folder in (beside, Path.cwd(), Path(tempfile.gettempdir()))]


def enqueue(uri: str, run_id: str, rows: Iterable[Mapping[str, object]], onto: Path | None = None) -> Path:
    """Write rows of a run of the store `uri` to a new file: ``undelivered/<run id>.jsonl`` or ``…-1.jsonl``.

    A row is a metric (key, value, timestamp, step, optionally model_id) or an action (`do`: see `ACTIONS`).

    Args:
        onto: the file of an earlier call; the rows are appended to it if possible.
    """
    owner = {"store": mask_secrets(uri), "run_id": run_id}
    lines = [json.dumps({**owner, **row}) + "\n" for row in rows]
    if onto is not None and onto.exists():
        with contextlib.suppress(OSError):
            return _append(onto, "".join(lines).encode())
    for folder in outbox_folders(uri):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = (f"{run_id}.jsonl" if not i else f"{run_id}-{i}.jsonl" for i in count())
            path = next(folder / name for name in names if not (folder / name).exists())
            draft = path.with_suffix(".draft")
            draft.write_text("".join(lines), encoding="utf-8")
            draft.replace(path)  # a reader sees complete files only
            return path
        except OSError as error:
            for draft in folder.glob(f"{run_id}*.draft"):
                draft.unlink()
            reason = error
    raise OSError(f"run {run_id}: {len(lines)} unsent rows cannot be written anywhere: {reason}")


def _append(path: Path, data: bytes) -> Path:
    """Append all of `data`, or nothing if the disk is full."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise
    return path


def read_rows(path: Path) -> list[PlainDict]:
    """The rows of a file written by `enqueue`. Raises UserError if it is damaged."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            known = {"key", "value", "timestamp", "step"} <= row.keys() or row["do"] in ACTIONS
            if not (known and re.fullmatch(r"[0-9a-f]{32}", row["run_id"])):  # it is also the name of a folder
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}, is damaged: repair or delete that line, then sync again"
            ) from error
        rows.append(row)
    return rows


def deliver(client: MlflowClient, path: Path, but: Collection[str] = ()) -> int:
    """Store the rows of a file, except the actions in `but`; return their number. Repeating it stores nothing twice."""
    rows = read_rows(path)
    for run_id in dict.fromkeys(row["run_id"] for row in rows):
        own = [row for row in rows if row["run_id"] == run_id]
        client.log_batch(run_id, metrics=metrics_of(row for row in own if "key" in row))
        for row in own:
            if "do" in row and row["do"] not in but:
                ACTIONS[row["do"]](client, row)
    return len(rows)


def metrics_of(rows: Iterable[PlainDict]) -> list[Metric]:
    """The rows as MLflow's metrics, without repeated ones: it rejects equal metrics of a model in one call."""
    from mlflow.entities import Metric

    # NaN is not equal to itself
    unique = {(r["key"], r["step"], r["timestamp"], None if math.isnan(r["value"]) else r["value"]): r for r in rows}
    names = ("key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest")
    known: list[PlainDict] = [{name: row.get(name) for name in names} for row in unique.values()]
    return [Metric(**row) for row in known]


def work_folder(run_id: str) -> Path:
    """Local folder of a run's files until its server has them, with ``run/``, ``model/`` and optionally ``models/<id>/``."""
    return runs_folder() / "work" / run_id


def _set_tags(client: MlflowClient, row: PlainDict) -> None:
    from mlflow.entities import RunTag

    client.log_batch(row["run_id"], tags=[RunTag(key, str(value)[:8000]) for key, value in row["tags"].items()])


def _finalize_model(client: MlflowClient, row: PlainDict) -> None:
    from mlflow.entities import LoggedModelOutput

    client.finalize_logged_model(row["model_id"], "READY")
    client.set_logged_model_tags(row["model_id"], row.get("tags", {}))
    outputs = client.get_run(row["run_id"]).outputs
    linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
    if row["model_id"] not in linked:  # a resumed run already has its link, and MLflow would add a second one
        client.log_outputs(row["run_id"], [LoggedModelOutput(row["model_id"], row["step"])])


def _upload(client: MlflowClient, row: PlainDict) -> None:
    """Upload the work folders to the server, then delete them.

    With MLflow's default timeout: the server may forward a large file before it responds.
    """
    work = work_folder(row["run_id"])
    short = os.environ.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)
    try:
        if (work / "run").is_dir():
            client.log_artifacts(row["run_id"], str(work / "run"))
        if (work / "model").is_dir() and any((work / "model").iterdir()):
            client.log_model_artifacts(row["model_id"], str(work / "model"))
        for folder in sorted((work / "models").glob("*")):
            client.log_model_artifacts(folder.name, str(folder))
    finally:
        if short is not None:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = short
    shutil.rmtree(work, ignore_errors=True)


def _terminate_run(client: MlflowClient, row: PlainDict) -> None:
    # with another status it was resumed and has ended meanwhile
    if row.get("now") or client.get_run(row["run_id"]).info.status == "RUNNING":
        client.set_terminated(row["run_id"], row["status"], row["end_time"])


ACTIONS = {"tags": _set_tags, "model": _finalize_model, "upload": _upload, "end": _terminate_run}


def pending_files(uri: str, run_id: str = "") -> list[Path]:
    """The files of unsent data for a store `uri` (and one run), oldest first."""
    found = [path for folder in dict.fromkeys(outbox_folders(uri)) for path in folder.glob(f"{run_id}*.jsonl")]
    mine = [path for path in found if path.stat().st_uid == os.getuid()]  # others write to the temporary folder, too
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

    Raises UserError if some files could not be sent, and remain; the others were sent.
    """
    failures, done = [], 0
    for path in dict.fromkeys(pending_files(source.uri) + pending_files("http")):
        try:
            rows = read_rows(path)
            store = _target_store(path, rows, source, to) if rows else source
            count = deliver(store.client, path)
        except Exception as error:  # the other files must still be sent
            failures.append(f"{path}: {first_line(error)}")
            continue
        path.unlink()
        done += 1
        print(f"sent {count} rows of {path.name} to {mask_secrets(store.uri)}")
    if failures:
        raise UserError("could not send, files kept:\n" + "\n".join(f"  {failure}" for failure in failures))
    return done


def _target_store(path: Path, rows: list[dict[str, object]], source: Store, to: Store | None) -> Store:
    """The store of a file's rows. Raises UserError if it is not available."""
    from mlflow.exceptions import MlflowException

    recorded, run_id = str(rows[0].get("store") or ""), str(rows[0]["run_id"])
    if not recorded or recorded.startswith("sqlite:"):  # the file was moved together with its store
        known = [*([sqlite_path(recorded)] if recorded else []), source.path]
        beside = path.parents[1] / known[0].name
        database = next((place for place in (beside, *known) if place.is_file()), None)
        if database is None:
            raise UserError(f"its store {recorded} does not exist")
        return open_store(sqlite_uri(database))
    if to is not None:
        with contextlib.suppress(MlflowException):  # it does not know the run
            if mask_secrets(to.uri) == recorded or to.client.get_run(run_id):
                return to
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if "***" in recorded and mask_secrets(environment) != recorded:
        raise UserError(f"give the server's address with the password: to={recorded}")
    try:
        return open_store(environment if mask_secrets(environment) == recorded else recorded)
    except UserError as error:
        raise UserError(
            f"its server {recorded} is not responding: start it, or give its new address with to=…"
        ) from error
