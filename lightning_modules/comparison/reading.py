"""How runs are read for a comparison: by SQL where the store is a SQLite file, by MLflow's search elsewhere."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightning_modules.tracking.store import PROJECT_ROOT, open_store, sqlite_path, sqlite_uri

PARENT = "mlflow.parentRunId"
TAGS = (
    PARENT, "touchstone.kind", "touchstone.ended", "sweep.keys", "sweep.objectives", "sweep.linked", "sweep.params",
)  # fmt: skip
LARGEST = 1.797e308  # MLflow stores infinities as the largest numbers that SQL holds


@dataclass(frozen=True)
class Run:
    """A run's head; of its tags only `TAGS`."""

    run_id: str
    name: str
    status: str
    experiment_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> str:
        """FINISHED, FAILED, KILLED, RUNNING …, or PRUNED."""
        return self.tags.get("touchstone.ended") or self.status

    def json(self, tag: str, otherwise: Any) -> Any:
        """The value of a JSON tag; `otherwise` where it is missing, broken or of another type."""
        try:
            value = json.loads(self.tags.get(tag, ""))
        except ValueError:
            return otherwise
        return value if isinstance(value, type(otherwise)) else otherwise


class Reader(Protocol):
    """The questions of a comparison. Deleted runs and experiments do not exist here; values are the latest."""

    def experiment(self, name: str) -> str | None:
        """The id of the experiment of that name."""

    def find(self, wanted: str) -> Run:
        """The one run whose id, id's beginning, name or sweep's name is `wanted`. Raises UserError where none or several fit."""

    def runs(self, *, experiment: str = "", parent: str = "", ids: Sequence[str] = ()) -> list[Run]:
        """The runs of an experiment, the children of a parent, or those of `ids` that exist."""

    def param_names(self, ids: Sequence[str], varying: bool = False) -> set[str]:
        """The params that any of the runs has; `varying`: that are not the same in all of them."""

    def params(self, ids: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
        """run id -> param -> value, of those that are there."""

    def metric_names(self, ids: Sequence[str]) -> set[str]:
        """The metrics that any of the runs has."""

    def metric(self, ids: Sequence[str], name: str) -> dict[str, float]:
        """run id -> latest value (NaN and infinities too), of the runs that have it."""


def open_reader(uri: str | None = None) -> Reader:
    """The reader of the store that `uri`, else MLFLOW_TRACKING_URI names, else of ``mlruns/mlflow.db``. Nothing is written.

    Raises:
        UserError: there is no such store, or it cannot be read.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(PROJECT_ROOT / "mlruns" / "mlflow.db")
    if uri.startswith("sqlite:"):
        from lightning_modules.comparison.by_sql import SqlReader

        return SqlReader(sqlite_path(uri))
    from lightning_modules.comparison.by_search import SearchReader

    return SearchReader(open_store(uri))


def decoded(value: float, is_nan: bool = False) -> float:
    """A metric's value out of what MLflow stores for NaN and for infinities."""
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else float(value)
