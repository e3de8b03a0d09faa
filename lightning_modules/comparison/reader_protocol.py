"""What a comparison reads from a store: the head of each run, and the queries of a reader."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from lightning_modules.tracking.tags import ENDED_TAG, KIND_TAG, PARENT_RUN_TAG

TAGS = (
    PARENT_RUN_TAG, KIND_TAG, ENDED_TAG, "sweep.keys", "sweep.objectives", "sweep.linked", "sweep.params",
)  # fmt: skip
Json = TypeVar("Json", list[object], dict[str, object])
INFINITY_THRESHOLD = 1.797e308  # MLflow stores infinities as the largest finite numbers of SQL


@dataclass(frozen=True)
class Run:
    """A run's id, name, status and experiment, and those of its tags that are in `TAGS`."""

    run_id: str
    name: str
    status: str
    experiment_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> str:
        """FINISHED, FAILED, KILLED, RUNNING …, or PRUNED."""
        return self.tags.get(ENDED_TAG) or self.status

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
        """The run whose id, id prefix, name or sweep name is `wanted`. Raises UserError if none or several match."""

    def runs(self, *, experiment: str = "", parent: str = "", ids: Sequence[str] = ()) -> list[Run]:
        """The runs of an experiment, the children of a parent, or those of `ids` that exist."""

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
