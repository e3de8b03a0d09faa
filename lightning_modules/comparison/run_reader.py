"""What a comparison reads from a store: the queries of a reader, and the reader for servers, by MLflow's ``search_runs``."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from lightning_modules.tracking import tags as tag
from lightning_modules.tracking.store import Store, find_run

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities import RunData

TAGS = (
    tag.PARENT_RUN_TAG, tag.KIND_TAG, tag.ENDED_TAG, tag.SWEEP_KEYS_TAG, tag.SWEEP_OBJECTIVES_TAG, tag.SWEEP_LINKED_TAG,
    tag.SWEEP_PARAMS_TAG, tag.STUDY_TAG,
)  # fmt: skip
IDS_PER_QUERY = 100  # the length of a URL is limited
Json = TypeVar("Json", list[object], dict[str, object])
INFINITY_THRESHOLD = 1.797e308  # MLflow stores infinities as the largest finite numbers of SQL


@dataclass(frozen=True)
class Run:
    """A run's id, name, status and experiment, its tags of `TAGS`, and those that begin with `SWEEP_LINK_TAG`."""

    run_id: str
    name: str
    status: str
    experiment_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> str:
        """FINISHED, FAILED, KILLED, RUNNING …, or PRUNED."""
        return self.tags.get(tag.ENDED_TAG) or self.status

    def json(self, tag: str, otherwise: Json) -> Json:
        """The value of a JSON tag; `otherwise` if it is missing, invalid or of another type."""
        try:
            value = json.loads(self.tags.get(tag, ""))
        except ValueError:
            return otherwise
        return value if isinstance(value, type(otherwise)) else otherwise


class RunReader(Protocol):
    """Queries of a comparison. Deleted runs and experiments are excluded; metrics are the latest values."""

    def experiment(self, name: str) -> str | None:
        """The id of the experiment of that name."""

    def find(self, wanted: str) -> Run:
        """The run whose id, name, sweep name or beginning of one is `wanted`. Raises UserError if none or several match."""

    def runs(self, *, experiment: str = "", tagged: tuple[str, str] = ("", ""), ids: Sequence[str] = ()) -> list[Run]:
        """The runs of an experiment, those with a tag of this name and value, or those of `ids` that exist."""

    def param_names(self, ids: Sequence[str], varying: bool = False) -> set[str]:
        """Names of the params that any of the runs has; with `varying`, only those that differ between runs."""

    def params(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
        """run id -> param -> value, for the params that exist."""

    def metric_names(self, ids: Sequence[str]) -> set[str]:
        """Names of the metrics that any of the runs has."""

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        """run id -> latest value (possibly NaN or infinite), for the runs that have the metric."""


def decode_metric(value: float, is_nan: bool = False) -> float:
    """Convert MLflow's stored form of NaN and infinities back."""
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= INFINITY_THRESHOLD else float(value)


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

    def runs(self, *, experiment: str = "", tagged: tuple[str, str] = ("", ""), ids: Sequence[str] = ()) -> list[Run]:
        if experiment or tagged[0]:
            conditions = ["tags.`{}` = '{}'".format(*tagged) if tagged[0] else ""]
        else:
            parts = [ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY)]
            conditions = ["attributes.run_id IN ({})".format(", ".join(f"'{i}'" for i in part)) for part in parts]
        inside = [experiment] if experiment else []
        order = "attributes.start_time ASC"
        return [self._head(run) for each in conditions for run in self._store.search_runs(each, order, inside)]

    def _head(self, run: "MlflowRun") -> Run:
        self._read[run.info.run_id] = run.data
        tags = {key: value for key, value in run.data.tags.items() if key in TAGS or key.startswith(tag.SWEEP_LINK_TAG)}
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
