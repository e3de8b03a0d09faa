"""The trials of a sweep as the store records them."""

from __future__ import annotations

import ast
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from lightning_modules.compat.mlflow_schema import EXTREMES_QUERY
from lightning_modules.config.run_names import run_name
from lightning_modules.tracking import tags as tag

if TYPE_CHECKING:
    from mlflow.entities import Run

    from lightning_modules.tracking.store import Store

COMPRESSED = ("compressed/", "compression/", "dense/")  # measured after each stage: the last value counts
SHOWN_METRICS = ("val/", "test/", "model/", *COMPRESSED)
_AVERAGING_TASKS = (
    "lightning_modules.task.classification.Classification",
    "lightning_modules.task.regression.Regression",
)
_INFINITE = 1e308  # MLflow stores an infinity as the largest float
_IDS_PER_QUERY = 200  # the length of a URL is limited

_Values = dict[str, dict[str, float | None]]
_Extremes = tuple[str, str, float, float]  # run id, metric, lowest, highest


class Fold(NamedTuple):
    """A fold of a cross-validation: its number of `total`, the part (``val`` or ``test``) that it is, and its samples."""

    number: int
    total: int
    part: str
    samples: int


@dataclass(frozen=True)
class TrialResult:
    """One trial of a sweep.

    Attributes:
        name: made of the swept keys (`run_name`).
        params: swept key -> value.
        status: FINISHED, FAILED, KILLED, PRUNED, RUNNING, or MISSING if the run is not in the store.
        values: objective -> the run's best value in the objective's direction; None if there is no finite one.
        metrics: the latest val/…, test/… and model/… values, and those of a compressed network.
        duration_s: None until the run has ended.
        linked: whether an older run is reused for this trial.
        error: of a FAILED or KILLED run.
        attempts: how often the trial was started.
        choices: the top-level params of the run: its config groups, seed and the like.
        fold: of a cross-validation with our data, where our task logs what samples average to.
    """

    number: int
    run_id: str | None
    name: str
    params: dict[str, object]
    status: str
    values: dict[str, float | None]
    metrics: dict[str, float]
    duration_s: float | None
    linked: bool = False
    error: str | None = None
    attempts: int = 1
    experiment_id: str | None = None
    fold: Fold | None = None
    choices: Mapping[str, str] = field(default_factory=dict)


def read_trial_results(store: Store, parent_run: str) -> list[TrialResult]:
    """The trials of the parent run (its id), linked ones too, by number."""
    tags = store.client.get_run(parent_run).data.tags
    keys = json.loads(tags.get(tag.SWEEP_KEYS_TAG, "[]"))
    objectives = json.loads(tags.get(tag.SWEEP_OBJECTIVES_TAG, "{}"))
    trials: dict[int, list[Run]] = defaultdict(list)  # the newest run last: a restarted trial has several
    for run in store.search_runs(f"tags.`{tag.PARENT_RUN_TAG}` = '{parent_run}'", "attributes.start_time ASC"):
        if (trial := run.data.tags.get(tag.SWEEP_TRIAL_TAG, "")).isdigit():
            trials[int(trial)].append(run)
    linked = {number: run_id for number, run_id in linked_runs(tags).items() if number not in trials}
    older = {run.info.run_id: run for run in _runs_with_ids(store, list(linked.values()))}
    values = best_values(store, [*(runs[-1].info.run_id for runs in trials.values()), *older], objectives)
    results = [_result_of(number, runs, keys, values) for number, runs in trials.items()]
    for number, run_id in linked.items():
        if run_id in older:
            results.append(_linked_result(number, older[run_id], keys, values))
        else:
            nothing: dict[str, float | None] = dict.fromkeys(objectives)
            missing = TrialResult(number, run_id, f"trial {number}", {}, "MISSING", nothing, {}, None)
            results.append(replace(missing, linked=True, attempts=0))
    return sorted(results, key=lambda result: result.number)


def linked_runs(tags: Mapping[str, str]) -> dict[int, str]:
    """Trial number -> id of the older run reused for it, from the parent's tags (one each: a single one would overflow)."""
    listed = {int(number): run_id for number, run_id in json.loads(tags.get(tag.SWEEP_LINKED_TAG, "{}")).items()}
    single = {
        key.removeprefix(tag.SWEEP_LINK_TAG): run_id
        for key, run_id in tags.items()
        if key.startswith(tag.SWEEP_LINK_TAG)
    }
    return listed | {int(number): run_id for number, run_id in single.items()}


def _runs_with_ids(store: Store, run_ids: Sequence[str]) -> Iterator[Run]:
    for start in range(0, len(run_ids), _IDS_PER_QUERY):
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + _IDS_PER_QUERY])
        yield from store.search_runs(f"attributes.run_id IN ({listed})")


def _result_of(number: int, runs: Sequence[Run], keys: Sequence[str], values: _Values) -> TrialResult:
    run, tags = runs[-1], runs[-1].data.tags
    status = "RUNNING" if run.info.status == "SCHEDULED" else str(run.info.status)
    if status == "KILLED" and tags.get(tag.ENDED_TAG) == "PRUNED":
        status = "PRUNED"
    params = json.loads(tags.get(tag.SWEEP_PARAMS_TAG, "{}"))
    ended = run.info.end_time and run.info.start_time and status != "RUNNING"
    return TrialResult(
        number=number,
        run_id=run.info.run_id,
        name=run.info.run_name or run_name(params, keys),
        params=params,
        status=status,
        values=values[run.info.run_id],
        metrics={k: v for k, v in sorted(run.data.metrics.items()) if k.startswith(SHOWN_METRICS)},
        duration_s=(run.info.end_time - run.info.start_time) / 1000 if ended else None,
        error=tags.get(tag.ERROR_TAG) if status in ("FAILED", "KILLED") else None,
        experiment_id=run.info.experiment_id,
        attempts=max(len(runs), int(tags.get(tag.SWEEP_FAILURES_TAG, 0)) + (status != "FAILED")),
        fold=_fold(run),
        choices={key: value for key, value in run.data.params.items() if "." not in key},
    )


def _fold(run: Run) -> Fold | None:
    tags, params = run.data.tags, run.data.params
    part = tags.get(tag.FOLD_PART_TAG, "")
    if not part or params.get("task._target_") not in _AVERAGING_TASKS:
        return None
    return Fold(int(params["data.fold"]), int(params["data.folds"]), part, int(tags[f"data.{part}_samples"]))


def _linked_result(number: int, run: Run, keys: Sequence[str], values: _Values) -> TrialResult:
    """An older run has the swept keys among its params; its name is of another sweep."""
    params = {key: _parse_value(run.data.params[key]) for key in keys if key in run.data.params}
    result = _result_of(number, [run], keys, values)
    return replace(result, name=run_name(params, keys), params=params, linked=True)


def _parse_value(text: str) -> object:
    """The value that MLflow stored as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def best_values(store: Store, run_ids: Sequence[str], objectives: Mapping[str, str]) -> _Values:
    """Run id -> objective -> the best finite value of the run, in the objective's direction; or None.

    For metrics of a compressed network (``compressed/…``) the last value counts.
    """
    found: _Values = {run_id: dict.fromkeys(objectives) for run_id in run_ids}
    extremes = _extremes_by_sql if store.is_local else _extremes_by_client
    for run_id, objective, low, high in extremes(store, run_ids, list(objectives)):
        found[run_id][objective] = low if objectives[objective] == "minimize" else high
    return found


def _extremes_by_sql(store: Store, run_ids: Sequence[str], names: Sequence[str]) -> Iterator[_Extremes]:
    last = [name for name in names if name.startswith(COMPRESSED)]
    ever = [name for name in names if name not in last]
    with closing(sqlite3.connect(f"{store.path.as_uri()}?mode=ro", uri=True, timeout=20)) as database:
        for table, keys in (("metrics", ever), ("latest_metrics", last)):
            query = EXTREMES_QUERY.format(table)
            yield from database.execute(query, [json.dumps(list(run_ids)), json.dumps(keys), _INFINITE])


def _extremes_by_client(store: Store, run_ids: Sequence[str], names: Sequence[str]) -> Iterator[_Extremes]:
    client = store.client
    for run_id in run_ids:
        for name in names:
            if name.startswith(COMPRESSED):
                points = [value for key, value in client.get_run(run_id).data.metrics.items() if key == name]
            else:
                points = [point.value for point in client.get_metric_history(run_id, name)]
            finite = [value for value in points if abs(value) < _INFINITE]  # which NaN is not
            if finite:
                yield run_id, name, min(finite), max(finite)
