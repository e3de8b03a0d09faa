"""Run reader for SQLite stores: plain SQL without MLflow and without locks, in a hundredth of the time of its search."""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparison.reader_protocol import TAGS, Run, decode_metric
from lightning_modules.config.errors import UserError, did_you_mean
from lightning_modules.tracking.tags import PARENT_RUN_TAG

ACTIVE_EXPERIMENTS = "experiments WHERE lifecycle_stage = 'active'"
ACTIVE_RUNS = f"lifecycle_stage = 'active' AND experiment_id IN (SELECT experiment_id FROM {ACTIVE_EXPERIMENTS})"
BY_SWEEP_NAME = (  # with `name=…` the parent run has another name than its sweep
    "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'sweep.name' AND value = ? INTERSECT "
    "SELECT run_uuid FROM tags WHERE key = 'touchstone.kind' AND value = 'sweep')"
)
JSON_LIST = "(SELECT value FROM json_each(?))"  # a list of any length as one SQL argument


class SqliteRunReader:
    """A `RunReader` of MLflow's schema in a SQLite file, opened read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        if not self.path.is_file():
            raise UserError(f"no tracking store at {self.path}; train a model first, or set MLFLOW_TRACKING_URI")
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect("mode=ro")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            # A write-ahead log needs a file beside the database. In a read-only folder nobody writes, so immutable is safe.
            return self._connect("mode=ro&immutable=1")

    def _connect(self, how: str) -> sqlite3.Connection:
        database = sqlite3.connect(f"{self.path.as_uri()}?{how}", uri=True, timeout=20)
        database.execute("SELECT 1 FROM runs LIMIT 1")
        return database

    def _rows(self, query: str, *arguments: Any) -> list[Any]:
        given = [json.dumps(list(a)) if isinstance(a, list | tuple | set) else a for a in arguments]
        try:
            return self._database.execute(query, given).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"the tracking store {self.path} cannot be read: {error}")

    def experiment(self, name: str) -> str | None:
        found = self._rows(f"SELECT experiment_id FROM {ACTIVE_EXPERIMENTS} AND name = ?", name)
        return str(found[0][0]) if found else None

    def find(self, wanted: str) -> Run:
        for condition, *values in (
            ("run_uuid = ?", wanted), (f"(name = ? OR {BY_SWEEP_NAME})", wanted, wanted),
            ("run_uuid GLOB ?", _id_prefix_pattern(wanted)),
        ):  # fmt: skip
            found = self._select(condition, *values) if all(values) else []
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(run.run_id for run in found[:-6:-1])
                more = ", …" * (len(found) > 5)
                raise UserError(f"{wanted!r} matches several runs; use one of their ids: {ids}{more}")
        raise UserError(f"no run or experiment {wanted!r} in {self.path}: {self._nearest(wanted)}")

    def _nearest(self, wanted: str) -> str:
        names = [row[0] for row in self._rows(f"SELECT name FROM {ACTIVE_EXPERIMENTS}")]
        newest = self._rows(f"SELECT name, run_uuid FROM runs WHERE {ACTIVE_RUNS} ORDER BY start_time DESC LIMIT 100")
        hint = did_you_mean(wanted, names + [name for name, _ in newest if name])
        listed = ", ".join(f"{name} ({run_id[:8]})" for name, run_id in newest[:5])
        known = f"the newest runs are: {listed}" if newest else "the store has no runs yet"
        return f"{hint} {known}" if hint else known

    def runs(self, *, experiment: str = "", parent: str = "", ids: Sequence[str] = ()) -> list[Run]:
        if experiment:
            return self._select("experiment_id = ?", int(experiment))
        if parent:
            children = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
            return self._select(children, PARENT_RUN_TAG, parent)
        return self._select(f"run_uuid IN {JSON_LIST}", list(ids)) if ids else []

    def _select(self, condition: str, *arguments: Any) -> list[Run]:
        columns = "SELECT run_uuid, name, status, experiment_id FROM runs"
        heads = self._rows(f"{columns} WHERE {ACTIVE_RUNS} AND {condition} ORDER BY start_time, run_uuid", *arguments)
        tags = self._values("tags", [head[0] for head in heads], TAGS)
        return [Run(run_id, name or "", status, str(of), tags.get(run_id, {})) for run_id, name, status, of in heads]

    def param_names(self, ids: Sequence[str], varying: bool = False) -> set[str]:
        having = "HAVING MIN(value) <> MAX(value) OR COUNT(*) < ?" if varying else "HAVING ?"
        query = f"SELECT key FROM params WHERE run_uuid IN {JSON_LIST} GROUP BY key {having}"
        return {row[0] for row in self._rows(query, list(ids), len(ids))}

    def params(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
        return self._values("params", ids, names)

    def _values(self, table: str, ids: Sequence[str], keys: Iterable[str]) -> dict[str, dict[str, str]]:
        query = f"SELECT run_uuid, key, value FROM {table} WHERE key IN {JSON_LIST} AND run_uuid IN {JSON_LIST}"
        found: dict[str, dict[str, str]] = {}
        for run_id, key, value in self._rows(query, list(keys), list(ids)):
            found.setdefault(run_id, {})[key] = value
        return found

    def metric_names(self, ids: Sequence[str]) -> set[str]:
        return {
            row[0]
            for row in self._rows(f"SELECT DISTINCT key FROM latest_metrics WHERE run_uuid IN {JSON_LIST}", list(ids))
        }

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        query = f"SELECT run_uuid, value, is_nan FROM latest_metrics WHERE key = ? AND run_uuid IN {JSON_LIST}"
        return {run_id: decode_metric(value, nan) for run_id, value, nan in self._rows(query, name, list(ids))}


def _id_prefix_pattern(wanted: str) -> str:
    """The GLOB pattern of run ids that start with `wanted`; empty if it cannot be the start of an id."""
    return f"{wanted}*" if re.fullmatch(r"[0-9a-f]{6,31}", wanted) else ""
