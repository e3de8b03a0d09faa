"""Compare runs: read them, group them over seeds, and test each group against the baseline."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_modules.comparison.caveats import data_caveats, pairing_caveats, sample_size_caveats
from lightning_modules.comparison.groups import (
    SEED_KEYS,
    SEED_PATTERN,
    Group,
    Params,
    candidate_keys,
    find_baseline,
    group_runs,
    minimal_keys,
    parse_baseline,
    require_known_params,
)
from lightning_modules.comparison.result import CompareRequest, Comparison, Difference, GroupedRuns, Row
from lightning_modules.comparison.run_reader import MlflowRunReader, Run, RunReader
from lightning_modules.comparison.selection import lower_is_better, read_metric, select_runs
from lightning_modules.comparison.sqlite_reader import SqliteRunReader
from lightning_modules.report.statistics import bca_intervals, holm, sign_flip_p
from lightning_modules.tracking.store import open_store, sqlite_path, store_uri
from lightning_modules.tracking.tags import SWEEP_PARAMS_TAG


def open_run_reader(uri: str | None = None) -> RunReader:
    """Open the store at `uri`, MLFLOW_TRACKING_URI or ``mlruns/mlflow.db``, in this order, for reading only.

    Raises UserError if the store does not exist or cannot be read.
    """
    uri = store_uri(uri)
    if uri.startswith("sqlite:"):
        return SqliteRunReader(sqlite_path(uri))
    return MlflowRunReader(open_store(uri))


def compare(reader: RunReader, request: CompareRequest) -> Comparison:
    """Compare the requested runs.

    Raises:
        UserError: an unknown or ambiguous target, metric, key or baseline; no finished run.
    """
    found = _read_groups(reader, request)
    baseline = None
    if request.baseline is not None:
        baseline = find_baseline(found.groups, found.by, parse_baseline(request.baseline, found.by))
    lower = lower_is_better(found.metric, request.better, found.selection.objectives)
    rows = sorted(_build_rows(found.groups, baseline), key=lambda row: _sort_key(row, lower))
    notes = data_caveats(found, is_default_metric=request.metric is None) + sample_size_caveats(rows)
    notes += pairing_caveats(found, baseline, rows) if baseline else []
    return Comparison(
        metric=found.metric,
        lower_is_better=lower,
        by=tuple(found.by),
        baseline=request.baseline,
        rows=tuple(rows),
        notes=tuple(notes),
        parent_id=found.selection.parent_id,
        experiment_id=found.selection.runs[0].experiment_id,
    )


def _read_groups(reader: RunReader, request: CompareRequest) -> GroupedRuns:
    selection = select_runs(reader, request.targets)
    ids = [run.run_id for run in selection.runs]
    metric, values = read_metric(reader, ids, request.metric, selection.objectives)
    if request.by is not None:
        require_known_params(reader, selection, request.by)
    varying = candidate_keys(reader, selection)
    settings = [key for key in varying if not SEED_PATTERN.search(key)]
    swept_seeds = [key for key in varying if SEED_PATTERN.search(key) and selection.swept is not None]
    wanted = {*settings, *SEED_KEYS, *swept_seeds, *(request.by or ())}
    params = _add_swept_params(selection.runs, reader.params(ids, wanted), selection.swept or ())
    rows = [params[run_id] for run_id in ids if run_id in values]
    by = list(request.by if request.by is not None else settings)
    if request.by is None and selection.swept is None:
        by = minimal_keys(settings, rows)
    logged_seeds = [key for key in dict.fromkeys((*SEED_KEYS, *swept_seeds)) if all(key in row for row in rows)]
    logged_seeds = [key for key in logged_seeds if key not in by]
    seed_keys = minimal_keys(logged_seeds, rows) or logged_seeds[:1]
    return GroupedRuns(
        selection=selection,
        metric=metric,
        by=by,
        others=[key for key in settings if key not in by],
        seed_keys=seed_keys,
        params=params,
        groups=group_runs(selection.runs, values, params, by, seed_keys),
        without_metric=len(ids) - len(rows),
    )


def _add_swept_params(runs: Sequence[Run], params: Mapping[str, Params], swept: Sequence[str]) -> dict[str, Params]:
    """The params of each run. A swept key that was not logged as a param is taken from the trial."""
    complete: dict[str, Params] = {}
    for run in runs:
        own = params.get(run.run_id, {})
        if any(key not in own for key in swept):
            trial = {str(k).lstrip("+~"): str(v) for k, v in run.json(SWEEP_PARAMS_TAG, {}).items()}
            own = {**{key: trial[key] for key in swept if key in trial}, **own}
        complete[run.run_id] = own
    return complete


def _build_rows(groups: Sequence[Group], baseline: Group | None) -> list[Row]:
    points = [tuple(group.points().values()) for group in groups]
    rows = [
        Row(
            values=group.values,
            points=values,
            mean=statistics.fmean(values) if values else None,
            std=statistics.stdev(values) if len(values) > 1 else None,
            interval=interval,
            not_finite=len(group.not_finite),
            runs=tuple(group.runs),
            seeds=tuple(group.points()),
        )
        for group, values, interval in zip(groups, points, bca_intervals(points), strict=True)
    ]
    return rows if baseline is None else _add_differences(rows, groups, baseline)


def _add_differences(rows: Sequence[Row], groups: Sequence[Group], baseline: Group) -> list[Row]:
    base = baseline.points()
    samples = [
        [] if group is baseline else [value - base[seed] for seed, value in group.points().items() if seed in base]
        for group in groups
    ]
    p_values = sign_flip_p(samples)
    differences = [
        Difference(len(sample), statistics.fmean(sample) if sample else None, interval, p, corrected)
        for sample, interval, p, corrected in zip(
            samples, bca_intervals(samples), p_values, holm(p_values), strict=True
        )
    ]
    return [
        replace(row, is_baseline=True) if group is baseline else replace(row, difference=difference)
        for row, group, difference in zip(rows, groups, differences, strict=True)
    ]


def _sort_key(row: Row, lower: bool) -> tuple[bool, float, tuple[str, ...]]:
    return row.mean is None, (row.mean or 0.0) * (1 if lower else -1), row.values
