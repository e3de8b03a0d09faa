"""Compare runs: read them, group them over seeds, and test each group against the baseline."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_modules.comparison import caveats
from lightning_modules.comparison.grouping_keys import (
    SEED_KEYS,
    SEED_PATTERN,
    Params,
    candidate_keys,
    minimal_keys,
    parse_baseline,
    require_known_params,
)
from lightning_modules.comparison.groups import Group, PairingKey, find_baseline, group_runs
from lightning_modules.comparison.metric_choice import lower_is_better, read_metric
from lightning_modules.comparison.run_reader import Run, RunReader
from lightning_modules.comparison.selection import Selection, select_runs
from lightning_modules.report.statistics import Interval, bca_intervals, holm, sign_flip_p


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


@dataclass(frozen=True)
class Comparison:
    """A sorted table, best group first, and its caveats.

    Attributes:
        home: the common parent run, to which the comparison is logged; None if there is none.
        experiment_id: of the runs.
    """

    metric: str
    lower_is_better: bool
    by: tuple[str, ...]
    baseline: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    home: str | None
    experiment_id: str

    @property
    def title(self) -> str:
        """Metric, direction and keys in one line."""
        by = f", by {', '.join(self.by)}" if self.by else ""
        against = f", against {self.baseline}" if self.baseline else ""
        return f"{self.metric} ({'lower' if self.lower_is_better else 'higher'} is better){by}{against}"


@dataclass(frozen=True)
class CompareRequest:
    """`targets` as on the command line, and the options; None is the default."""

    targets: Sequence[str]
    by: Sequence[str] | None = None
    metric: str | None = None
    baseline: str | None = None
    better: str | None = None  # higher or lower, for a metric whose direction is unknown


@dataclass
class ComparisonData:
    """The runs, read and grouped, before any statistics."""

    selection: Selection
    metric: str
    by: list[str]
    others: list[str]  # keys that vary but do not define groups
    repeats: list[str]
    params: Mapping[str, Params]
    groups: list[Group]
    without_metric: int
    against: Group | None = None
    notes: list[str] = field(default_factory=list)


def compare(reader: RunReader, question: CompareRequest) -> Comparison:
    """Compare the requested runs.

    Raises:
        UserError: an unknown or ambiguous target, metric, key or baseline; no finished run.
    """
    read = _read_data(reader, question)
    if question.baseline is not None:
        wanted = parse_baseline(question.baseline, read.by)
        read.against = find_baseline(read.groups, read.by, wanted)
    lower = lower_is_better(read.metric, question.better, read.selection.objectives)
    rows = sorted(_build_rows(read.groups, read.against), key=lambda row: _sort_key(row, lower))
    said = caveats.data_caveats(read, chosen=question.metric is None) + caveats.sample_size_caveats(rows, read)
    first: Run = read.selection.runs[0]
    return Comparison(
        read.metric, lower, tuple(read.by), question.baseline, tuple(rows), tuple(said), read.selection.home, first.experiment_id
    )  # fmt: skip


def _read_data(reader: RunReader, question: CompareRequest) -> ComparisonData:
    selection = select_runs(reader, question.targets)
    ids = [run.run_id for run in selection.runs]
    metric, values = read_metric(reader, ids, question.metric)
    if question.by is not None:
        require_known_params(reader, selection, question.by)
    maybe = candidate_keys(reader, selection)
    settings = [key for key in maybe if not SEED_PATTERN.search(key)]
    swept_seeds = [key for key in maybe if SEED_PATTERN.search(key) and selection.swept is not None]
    wanted = {*settings, *SEED_KEYS, *swept_seeds, *(question.by or ())}
    params = _add_swept_params(selection.runs, reader.params(ids, wanted), selection.swept or ())
    rows = [params[run_id] for run_id in ids if run_id in values]
    by = list(question.by if question.by is not None else settings)
    if question.by is None and selection.swept is None:
        by = minimal_keys(settings, rows)
    seeds = [
        key for key in dict.fromkeys((*SEED_KEYS, *swept_seeds)) if key not in by and all(key in row for row in rows)
    ]
    repeats = minimal_keys(seeds, rows) or seeds[:1]
    groups = group_runs(selection.runs, values, params, by, repeats)
    others = [key for key in settings if key not in by]
    return ComparisonData(selection, metric, by, others, repeats, params, groups, len(ids) - len(rows))


def _add_swept_params(runs: Sequence[Run], params: Mapping[str, Params], swept: Sequence[str]) -> dict[str, Params]:
    """The params of each run. A swept key that was not logged as a param is taken from the trial."""
    whole: dict[str, Params] = {}
    for run in runs:
        own = params.get(run.run_id, {})
        if any(key not in own for key in swept):
            trial = {str(k).lstrip("+~"): str(v) for k, v in run.json("sweep.params", {}).items()}
            own = {**{key: trial[key] for key in swept if key in trial}, **own}
        whole[run.run_id] = own
    return whole


def _build_rows(groups: Sequence[Group], against: Group | None) -> list[Row]:
    points = [tuple(group.points().values()) for group in groups]
    rows = [
        Row(
            group.values, values, statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None, interval, len(group.not_finite), tuple(group.runs),
            seeds=tuple(group.points()),
        )
        for group, values, interval in zip(groups, points, bca_intervals(points), strict=True)
    ]  # fmt: skip
    return rows if against is None else _add_differences(rows, groups, against)


def _add_differences(rows: Sequence[Row], groups: Sequence[Group], against: Group) -> list[Row]:
    base = against.points()
    paired = [[value - base[seed] for seed, value in group.points().items() if seed in base] for group in groups]
    tested = [[] if group is against else differences for group, differences in zip(groups, paired, strict=True)]
    p_values = sign_flip_p(tested)
    outcome = zip(rows, groups, tested, bca_intervals(tested), p_values, holm(p_values), strict=True)
    return [
        replace(row, is_baseline=True)
        if group is against
        else replace(
            row, difference=Difference(len(d), statistics.fmean(d) if d else None, interval, p, corrected)
        )
        for row, group, d, interval, p, corrected in outcome
    ]  # fmt: skip


def _sort_key(row: Row, lower: bool) -> tuple[bool, float, tuple[str, ...]]:
    return row.mean is None, (row.mean or 0.0) * (1 if lower else -1), row.values
