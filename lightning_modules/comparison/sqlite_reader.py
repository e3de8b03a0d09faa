"""Run reader for SQLite stores: plain SQL without MLflow and without locks, in a hundredth of the time of its search."""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparison.run_reader import TAGS, Run, decode_metric
from lightning_modules.compat import mlflow_schema as schema
from lightning_modules.config.errors import UserError, did_you_mean
from lightning_modules.tracking.store import Store, find_run, sqlite_uri
from lightning_modules.tracking.tags import KIND_TAG, SWEEP_LINK_TAG, SWEEP_NAME_TAG


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
        database.execute(schema.ANY_RUN_QUERY)
        return database

    def _rows(self, query: str, *arguments: object) -> list[Any]:
        given = [json.dumps(list(a)) if isinstance(a, list | tuple | set) else a for a in arguments]
        try:
            return self._database.execute(query, given).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"the tracking store {self.path} cannot be read: {error}")

    def experiment(self, name: str) -> str | None:
        ids = dict(self._rows(schema.EXPERIMENT_NAMES_QUERY))
        return str(ids[name]) if name in ids else None

    def find(self, wanted: str) -> Run:
        by_sweep = (SWEEP_NAME_TAG, wanted, KIND_TAG, "sweep")  # with `name=…` the run has another name than its sweep
        searches: list[tuple[str, ...]] = (
            [(schema.WITH_ID, wanted), (schema.WITH_NAME_OR_TAGS, wanted, *by_sweep)] if wanted else []
        )
        if re.fullmatch(r"[0-9a-f]{6,31}", wanted):
            searches.append((schema.WITH_ID_LIKE, f"{wanted}*"))
        if wanted:
            searches.append((schema.WITH_NAME_START, wanted, wanted))
        for condition, *values in searches:
            found = self._select(condition, *values)
            if len(found) == 1:
                return found[0]
            if found:
                find_run(Store(sqlite_uri(self.path)), wanted)  # raises: with dates and differences
        raise UserError(f"no run or experiment {wanted!r} in {self.path}: {self._nearest(wanted)}")

    def _nearest(self, wanted: str) -> str:
        newest = self._rows(schema.NEWEST_RUNS_QUERY)
        names = [*dict(self._rows(schema.EXPERIMENT_NAMES_QUERY)), *(name for name, _ in newest if name)]
        listed = ", ".join(f"{name} ({run_id[:8]})" for name, run_id in newest[:5])
        known = f"the newest runs are: {listed}" if newest else "the store has no runs yet"
        return f"{did_you_mean(wanted, names)} {known}".strip()

    def runs(self, *, experiment: str = "", tagged: tuple[str, str] = ("", ""), ids: Sequence[str] = ()) -> list[Run]:
        if experiment:
            return self._select(schema.IN_EXPERIMENT, int(experiment))
        if tagged[0]:
            return self._select(schema.WITH_TAG, *tagged)
        return self._select(schema.WITH_IDS, list(ids)) if ids else []

    def _select(self, condition: str, *arguments: object) -> list[Run]:
        heads = self._rows(schema.RUNS_QUERY.format(condition), *arguments)
        links = (SWEEP_LINK_TAG, f"{SWEEP_LINK_TAG}~")
        tags = self._values(schema.TAGS_QUERY, TAGS, *links, [head[0] for head in heads])
        return [Run(run_id, name or "", status, str(of), tags.get(run_id, {})) for run_id, name, status, of in heads]

    def param_names(self, ids: Sequence[str], varying: bool = False) -> set[str]:
        if varying:
            return {key for (key,) in self._rows(f"{schema.PARAM_NAMES_QUERY} {schema.VARYING}", list(ids), len(ids))}
        return {key for (key,) in self._rows(schema.PARAM_NAMES_QUERY, list(ids))}

    def params(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
        return self._values(schema.PARAMS_QUERY, list(names), list(ids))

    def _values(self, query: str, *arguments: object) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for run_id, key, value in self._rows(query, *arguments):
            found.setdefault(run_id, {})[key] = value
        return found

    def metric_names(self, ids: Sequence[str]) -> set[str]:
        return {key for (key,) in self._rows(schema.METRIC_NAMES_QUERY, list(ids))}

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        return {
            run_id: decode_metric(value, nan) for run_id, value, nan in self._rows(schema.METRIC_QUERY, name, list(ids))
        }
