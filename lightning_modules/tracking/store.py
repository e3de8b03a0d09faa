"""The tracking store: a local SQLite file, or the server named by MLFLOW_TRACKING_URI.

Longer than most: half of it are the checks that find a store which cannot be used before a run begins, each with its message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from lightning_modules.compat.mlflow import database_engines
from lightning_modules.compat.mlflow_schema import WRITE_NOTHING
from lightning_modules.config.errors import UserError, did_you_mean
from lightning_modules.config.project import runs_folder
from lightning_modules.tracking.schema_version import has_newest_schema
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.tags import KIND_TAG, SWEEP_NAME_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_DISABLE_AGENT_HINT", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our own report prints the address
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it also logs the traceback of what it raises
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no warning on a machine without git
# MLflow's default of seven retries of 120 s would block a run for 15 minutes; failed requests are buffered and repeated.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

RUNS_PER_PAGE = 1000
HEALTH_SECONDS = 5.0  # timeout of a health check
LOCK_SECONDS = 20.0  # timeout for a database that another process has locked
CREATE_SECONDS = 300.0  # timeout for another process that creates the database
# driver module -> pip requirement, if it has another name
DRIVERS = {"psycopg": "-e '.[postgres]'", "psycopg2": "-e '.[postgres]'", "MySQLdb": "mysqlclient"}
NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "beegfs", "ceph")


@dataclass(frozen=True)
class Store:
    """A tracking store that was checked; `artifacts`: URI of its artifact folder, None for a server."""

    uri: str
    artifacts: str | None = None

    @property
    def is_local(self) -> bool:
        return self.uri.startswith("sqlite:")

    @property
    def path(self) -> Path:
        """The SQLite file of a local store."""
        return sqlite_path(self.uri)

    @property
    def folder(self) -> Path:
        """The folder for files beside the store: that of its database, or this project's mlruns for a server."""
        return self.path.parent if self.is_local else runs_folder()

    @property
    def client(self) -> MlflowClient:
        """MLflow's client of this store (cheap after the first time: MLflow caches the connections).

        Raises UserError if the database cannot be opened.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            return MlflowClient(tracking_uri=self.uri)
        except MlflowException as error:  # it names the command that upgrades a schema, and asks for a backup
            text = mask_secrets(str(error))
            raise UserError(f"tracking.uri={mask_secrets(self.uri)} cannot be opened: {text}") from error

    def experiment(self, name: str) -> str:
        """Return the id of the experiment `name`; create it if necessary (other processes may do so at the same time).

        Raises UserError if the experiment was deleted, or if MLflow rejects the name.
        """
        from mlflow.exceptions import MlflowException

        client = self.client
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = re.sub(r"[^\w .-]+", "_", name).strip(". ")[:100] or "experiment"
            location = f"{self.artifacts}/{quote(folder)}" if self.artifacts else None
            try:
                # MLflow's UI then opens the experiment as model training, not as GenAI
                return client.create_experiment(name, location, {"mlflow.experimentKind": "custom_model_development"})
            except MlflowException as error:
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise UserError(f"MLflow rejects the experiment name {name!r}: {error}") from error
        if found.lifecycle_stage != "active":
            raise UserError(
                f"the experiment {name!r} was deleted: choose another name, or restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return found.experiment_id

    def where_to_see(self, experiment_id: str, run_id: str) -> str:
        """Where a run's page is, as printed: its address, on a local store that of ``touchstone ui``."""
        server = "touchstone ui, then http://127.0.0.1:5000" if self.is_local else mask_secrets(self.uri)
        return f"{server}/{page(experiment_id, f'runs/{run_id}')}"

    def set_tags(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Set several tags of a run in one request."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def search_runs(
        self, condition: str = "", order: str = "", experiments: Sequence[str] = (), view: int = 1
    ) -> Iterator[Run]:
        """All runs that match MLflow's filter `condition`, read page by page; by default of all active experiments.

        `view` is MLflow's ViewType.
        """
        client, token = self.client, None
        everywhere = list(experiments) or [found.experiment_id for found in client.search_experiments()]
        while everywhere:
            page = client.search_runs(everywhere, condition, view, RUNS_PER_PAGE, [order] if order else None, token)
            yield from page
            token = page.token
            if not token:
                return

    def newest_run(self, condition: str, experiment_id: str) -> Run | None:
        """The newest run of an experiment that matches MLflow's filter `condition`, or None."""
        order = ["attributes.start_time DESC"]
        return next(iter(self.client.search_runs([experiment_id], condition, 1, 1, order)), None)


def page(experiment_id: str, name: str) -> str:
    """The address of one of MLflow's pages below the server's; without the mode it opens as GenAI, not as model training."""
    return f"#/experiments/{experiment_id}/{name}?workflowType=machine_learning"


def sqlite_uri(path: Path) -> str:
    """The URI of a SQLite file for MLflow, percent-encoded if the path contains ``?`` or looks encoded.

    >>> sqlite_uri(Path("/home/ann/100% sure/mlflow.db"))
    'sqlite:////home/ann/100% sure/mlflow.db'
    >>> sqlite_uri(Path("/home/ann/why?/mlflow.db"))
    'sqlite:////home%2Fann%2Fwhy%3F%2Fmlflow.db'
    """
    text = str(path.absolute())
    if "?" in text or unquote(text) != text:
        # Slashes too: MLflow creates the parent folder of the undecoded text, which would be an empty "why%3F".
        text = f"/{quote(text[1:], safe='')}"
    return f"sqlite:///{text}"


def sqlite_path(uri: str) -> Path:
    """The absolute path of a ``sqlite:///`` URI.

    Raises UserError if it names no file, or if the path contains an unescaped ``?``.
    """
    text, _, query = uri.removeprefix("sqlite:///").partition("?")
    if not uri.startswith("sqlite:///") or text in ("", ":memory:") or text.startswith("file:"):
        raise UserError(f"tracking.uri={uri} names no file; expected sqlite:////absolute/path/mlflow.db")
    if not re.fullmatch(r"(\w+=[^/?]*(&|$))*", query):  # not query parameters, but the rest of the path
        whole = sqlite_uri(Path(uri.removeprefix("sqlite:///")))
        raise UserError(f"tracking.uri={uri} has a '?' in its path; write it as {whole}")
    return Path(unquote(text)).absolute()


def store_uri(given: str | None = None) -> str:
    """The given URI, else MLFLOW_TRACKING_URI, else ``mlruns/mlflow.db`` in the folder of `config.project.home`."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(runs_folder() / "mlflow.db")


def open_store(uri: str | None = None) -> Store:
    """Open the store and check that it is writable; create it if it is local.

    Args:
        uri: default: see `store_uri`.

    Raises UserError if it is damaged, read-only, locked, unreachable, or a file store (MLflow 3 has none).
    """
    uri = store_uri(uri)
    if uri.startswith("sqlite:"):
        return _open_sqlite(uri)
    if uri.startswith(("http://", "https://")):
        _require_server(uri)
        return Store(uri)
    if kind := re.match(r"(postgresql|mysql|mssql)\b", uri):  # no server in between: artifacts are in this folder …
        _require_driver(uri)
        # … but apart from those of mlflow.db, which would treat them as orphans
        return Store(uri, (runs_folder() / f"artifacts-{kind[1]}").as_uri())
    if uri.startswith("databricks"):
        return Store(uri)
    raise UserError(
        f"tracking.uri={mask_secrets(uri)} is a folder or an unknown kind of store (MLflow 3 has no file "
        "store any more): expected sqlite:////absolute/path/mlflow.db, http(s)://server:5000, "
        "postgresql://… or databricks"
    )


def _open_sqlite(uri: str) -> Store:
    path = sqlite_path(uri)
    try:
        if not _is_writable_store(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_once(path)
    except sqlite3.DatabaseError as error:
        what = f"is not writable: {error}"
        if "not a database" in str(error) or "malformed" in str(error):
            what = f"is damaged ({error}): move it away, or restore it from a backup"
        elif "locked" in str(error):
            what = f"has been locked by another process for more than {LOCK_SECONDS:.0f} s"
        raise UserError(f"the tracking store {path} {what}") from error
    except OSError as error:
        raise UserError(f"the tracking store {path} is not writable: {error.strerror or error}") from error
    return Store(sqlite_uri(path), (path.parent / "artifacts").as_uri())


def _is_writable_store(path: Path) -> bool:
    """Whether `path` contains MLflow's schema and is writable; False if there is no database yet."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return False
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)) as database:
        if not has_newest_schema(path, database):  # MLflow's client would upgrade some of them without a backup
            raise UserError(
                f"the tracking store {path} was written by an older MLflow: `touchstone store upgrade "
                f"{shlex.quote(f'tracking.uri={sqlite_uri(path)}')}` makes a backup and upgrades it"
            )
        # A write is the only reliable test (BEGIN IMMEDIATE succeeds on a read-only database).
        database.execute(WRITE_NOTHING)
        database.rollback()
    return True


def _create_once(path: Path) -> None:
    """Create the database under another name and move it into place, so that no process sees an incomplete schema."""
    from filelock import FileLock, Timeout
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with FileLock(f"{path}.lock", timeout=CREATE_SECONDS):
            if _is_writable_store(path):
                return
            draft = path.with_name(f"{path.name}.creating")
            for ending in ("", "-wal", "-shm", "-journal"):  # of a process that died while creating it
                draft.with_name(draft.name + ending).unlink(missing_ok=True)
            SqlAlchemyStore(sqlite_uri(draft), (path.parent / "artifacts").as_uri()).engine.dispose()
            with closing(sqlite3.connect(draft)) as database:
                if not _on_network(path.parent):  # faster for concurrent readers and writers, but needs shared memory
                    database.execute("PRAGMA journal_mode=WAL")
            draft.replace(path)
    except (SQLAlchemyError, MlflowException) as error:  # usually a full disk
        raise UserError(f"the tracking store {path} cannot be created: {error}") from error
    except Timeout as error:
        raise UserError(
            f"another process holds {path}.lock: stop it, or delete the lock if there is no such process"
        ) from error


def _on_network(folder: Path) -> bool:
    import psutil

    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    nearest_mount = next((place for place in (folder, *folder.parents) if place in mounts), None)
    return nearest_mount is not None and mounts[nearest_mount].startswith(NETWORK_FILESYSTEMS)


def _require_driver(uri: str) -> None:
    """Raise UserError if SQLAlchemy cannot parse this URI or the database's driver is not installed."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    shown = mask_secrets(uri)
    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        package = DRIVERS.get(error.name or "", error.name)
        raise UserError(
            f"tracking.uri={shown} needs the Python package {error.name}, which is not installed: pip install {package}"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        raise UserError(
            f"tracking.uri={shown} cannot be parsed ({mask_secrets(str(error))}); "
            "expected postgresql://user:password@host:5432/database"
        ) from error


def is_reachable(uri: str) -> bool:
    """Whether an MLflow server responds at this address."""
    with contextlib.suppress(OSError, UnicodeError):  # errors of requests are OSErrors
        return _health_status(uri) > 0
    return False


def _health_status(uri: str) -> int:
    """The HTTP status of MLflow's health check. Raises requests.RequestException or UnicodeError without a response."""
    import requests

    verify = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("true", "1")
    return requests.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_SECONDS, verify=verify).status_code


def _require_server(uri: str) -> None:
    import requests

    shown = mask_secrets(uri)
    advice = (
        f"start it with `mlflow server --backend-store-uri '{sqlite_uri(runs_folder() / 'mlflow.db')}'`, "
        "or unset MLFLOW_TRACKING_URI to use the local store"
    )
    try:
        status = _health_status(uri)
    except (requests.RequestException, UnicodeError) as error:
        message = f"tracking.uri={shown} is not responding ({type(error).__name__}): {advice}"
        raise UserError(message, transient=True) from error
    if status >= 400 and status not in (401, 403):  # a proxy may protect /health and still admit the client
        message = f"tracking.uri={shown} is not responding like an MLflow server (HTTP {status}): {advice}"
        raise UserError(message, transient=True)


def require_free_space(path: Path, needed_bytes: int) -> None:
    """Raise UserError unless the disk of `path` (which need not exist yet) has `needed_bytes` free."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f"not enough disk space: {path} has {free / 1e6:,.0f} MB free, the run needs about {needed_bytes / 1e6:,.0f} MB",
            transient=True,
        )


def find_run(store: Store, wanted: str, view: int = 1) -> Run:
    """Return the run whose id, name or sweep name is `wanted`, else the one whose id (6 characters or more) or name so begins.

    `view` is MLflow's ViewType. Raises UserError if none or several match, with the candidates, or similar and the newest runs.
    """
    client = store.client
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    for conditions in _conditions(wanted):
        found = [client.search_runs(everywhere, c, view, 100, ["attributes.start_time DESC"]) for c in conditions]
        runs = list({run.info.run_id: run for page in found for run in page if _fits(run, wanted)}.values())
        if len(runs) == 1:
            return runs[0]
        if runs:
            from lightning_modules.tracking.params import candidate_lines

            listed = "\n".join(candidate_lines(runs[:5])) + "\n  …" * (len(runs) > 5)
            raise UserError(f"{wanted!r} matches several runs: give the id of one:\n{listed}")
    newest = client.search_runs(everywhere, "", view, 100, ["attributes.start_time DESC"])
    listed = ", ".join(f"{run.info.run_name} ({run.info.run_id[:8]})" for run in newest[:5])
    known = f"the newest are: {listed}" if listed else "it has no runs yet"
    hint = f"{did_you_mean(wanted, [run.info.run_name or '' for run in newest])} {known}".strip()
    raise UserError(f"no {'deleted ' * (view == 2)}run {wanted!r} in {mask_secrets(store.uri)}: {hint}")


def _conditions(wanted: str) -> Iterator[list[str]]:
    """Search filters (alternatives), the most specific first; MLflow cannot quote a name with both kinds of quotes."""
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        yield [f"attributes.run_id = '{wanted}'"]
    if not ("'" in wanted and '"' in wanted) and wanted:
        quoted = f'"{wanted}"' if "'" in wanted else f"'{wanted}'"
        # `name=…` sets the name of a sweep's run to another one than that of the sweep
        sweep = f"tags.`{KIND_TAG}` = 'sweep' AND tags.`{SWEEP_NAME_TAG}` = {quoted}"
        yield [f"attributes.run_name = {quoted}", sweep]
    if re.fullmatch(r"[0-9a-f]{6,31}", wanted):
        yield [f"attributes.run_id LIKE '{wanted}%'"]
    if not ("'" in wanted and '"' in wanted) and wanted:
        yield [f"attributes.run_name LIKE {quoted[:-1]}%{quoted[-1]}"]


def _fits(run: Run, wanted: str) -> bool:
    """Whether a run found by a pattern, in which _ and % stand for other letters too, has this name or its beginning."""
    names = (run.info.run_id, run.info.run_name or "", run.data.tags.get(SWEEP_NAME_TAG, ""))
    return any(name.startswith(wanted) for name in names)


def _close_connections(close: bool = True) -> None:
    for engine in database_engines():
        engine.dispose(close=close)


# A connection must not be inherited by a forked process: SQLite's locks are per process. Idle connections are closed
# before the fork (they reopen when needed); the child drops those in use.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_connections, after_in_child=lambda: _close_connections(close=False))
