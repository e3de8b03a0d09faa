"""A comparison: its request, its rows, and the grouped runs that they are computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_modules.comparison.groups import Group, PairingKey, Params
from lightning_modules.comparison.selection import Selection
from lightning_modules.report.statistics import ALPHA, Interval


@dataclass(frozen=True)
class CompareRequest:
    """`targets` as on the command line, and the options; None is the default."""

    targets: Sequence[str]
    by: Sequence[str] | None = None
    metric: str | None = None
    baseline: str | None = None
    better: str | None = None  # higher or lower, for a metric whose direction is unknown


@dataclass(frozen=True)
class GroupedRuns:
    """The selected runs, grouped, before any statistics."""

    selection: Selection
    metric: str
    by: list[str]
    others: list[str]  # keys that vary but do not define groups
    seed_keys: list[str]
    params: Mapping[str, Params]
    groups: list[Group]
    without_metric: int


@dataclass(frozen=True)
class Difference:
    """A group minus the baseline, over the seeds that both have. `p_holm` is Holm-corrected over all groups of the table."""

    pairs: int
    mean: float | None
    interval: Interval | None
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class Row:
    """A group's row. `mean` is None if no value is finite, `std` (N - 1) if fewer than two are."""

    values: tuple[str, ...]
    points: tuple[float, ...]
    mean: float | None
    std: float | None
    interval: Interval | None
    not_finite: int
    runs: tuple[str, ...]
    is_baseline: bool = False
    difference: Difference | None = None
    seeds: tuple[PairingKey, ...] = ()  # one per point, in the same order

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.points)

    @property
    def is_significant(self) -> bool:
        """Whether the difference to the baseline is significant at 0.05 after Holm's correction."""
        return self.difference is not None and self.difference.p_holm is not None and self.difference.p_holm < ALPHA


@dataclass(frozen=True)
class Comparison:
    """A sorted table, best group first, and its caveats.

    Attributes:
        parent_id: the common parent run, to which the comparison is logged; None if there is none.
        experiment_id: of the runs.
    """

    metric: str
    lower_is_better: bool
    by: tuple[str, ...]
    baseline: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    parent_id: str | None
    experiment_id: str

    @property
    def direction(self) -> str:
        """Which values of the metric are better."""
        return f"{'lower' if self.lower_is_better else 'higher'} is better"

    @property
    def title(self) -> str:
        """Metric, direction and keys in one line."""
        by = f", by {', '.join(self.by)}" if self.by else ""
        against = f", against {self.baseline}" if self.baseline else ""
        return f"{self.metric} ({self.direction}){by}{against}"
