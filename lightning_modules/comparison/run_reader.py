"""Opens a store for reading: SQL for SQLite files, MLflow's ``search_runs`` for servers and other databases."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lightning_modules.comparison.reader_protocol import TAGS, Run, RunReader, decode_metric
from lightning_modules.comparison.sqlite_reader import SqliteRunReader
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.tracking.store import Store, find_run, open_store, sqlite_path, sqlite_uri
from lightning_modules.tracking.tags import PARENT_RUN_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities import RunData

PAGE_SIZE = 1000  # runs
IDS_PER_QUERY = 100  # per query: the length of a URL is limited


def open_run_reader(uri: str | None = None) -> RunReader:
    """Open the store at `uri`, MLFLOW_TRACKING_URI or ``mlruns/mlflow.db``, in this order, for reading only.

    Raises:
        UserError: the store does not exist or cannot be read.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(PROJECT_ROOT / "mlruns" / "mlflow.db")
    if uri.startswith("sqlite:"):
        return SqliteRunReader(sqlite_path(uri))
    return MlflowRunReader(open_store(uri))


class MlflowRunReader:
    """A `RunReader` on MLflow's client. ``search_runs`` returns whole runs, so their data are cached."""

    def __init__(self, store: Store) -> None:
        self._store, self._client = store, store.client
        self._read: dict[str, RunData] = {}

    def experiment(self, name: str) -> str | None:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None and found.lifecycle_stage == "active" else None

    def find(self, wanted: str) -> Run:
        return self._head(find_run(self._store, wanted))

    def runs(self, *, experiment: str = "", parent: str = "", ids: Sequence[str] = ()) -> list[Run]:
        everywhere = [experiment] if experiment else [e.experiment_id for e in self._client.search_experiments()]
        if experiment or parent:
            conditions = [f"tags.`{PARENT_RUN_TAG}` = '{parent}'" if parent else ""]
        else:
            parts = [ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY)]
            conditions = ["attributes.run_id IN ({})".format(", ".join(f"'{i}'" for i in part)) for part in parts]
        return [self._head(run) for condition in conditions for run in self._pages(everywhere, condition)]

    def _pages(self, experiments: list[str], condition: str) -> "Iterator[MlflowRun]":
        token: str | None = None
        while True:
            page = self._client.search_runs(
                experiments, condition, max_results=PAGE_SIZE, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _head(self, run: "MlflowRun") -> Run:
        self._read[run.info.run_id] = run.data
        tags = {key: value for key, value in run.data.tags.items() if key in TAGS}
        return Run(run.info.run_id, run.info.run_name or "", run.info.status, run.info.experiment_id, tags)

    def param_names(self, ids: Sequence[str], varying: bool = False) -> set[str]:
        names = {name for run_id in ids for name in self._read[run_id].params}
        if not varying:
            return names
        return {name for name in names if len({self._read[run_id].params.get(name) for run_id in ids}) > 1}

    def params(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
        wanted = set(names)
        return {run_id: {k: v for k, v in self._read[run_id].params.items() if k in wanted} for run_id in ids}

    def metric_names(self, ids: Sequence[str]) -> set[str]:
        return {name for run_id in ids for name in self._read[run_id].metrics}

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        values = ((run_id, self._read[run_id].metrics.get(name)) for run_id in ids)
        return {run_id: decode_metric(value) for run_id, value in values if value is not None}
