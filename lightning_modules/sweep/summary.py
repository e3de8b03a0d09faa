"""The summary in the sweep's run: a table of the trials, the best one, plots, and a description with links."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import format_exact_duration, format_number
from lightning_modules.report.tables import escape_markdown, markdown_table
from lightning_modules.sweep.configurations import metrics_of_children, ranked_configurations
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results
from lightning_modules.sweep.trial_table import (
    best_trial,
    counts,
    pareto_front,
    sorted_trials,
    status_line,
    to_csv,
    to_html,
)
from lightning_modules.tracking import tags as tag
from lightning_modules.tracking.store import Store, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run

FOLDER = "sweep"  # among the artifacts of the sweep's run
_MOST_OF_FRONT = 200  # run ids that a tag has room for
DESCRIPTION_ROWS = 20
DESCRIPTION_LIMIT = 8000  # characters of a tag in MLflow
MAX_TEST_METRICS = 3  # shown beside the objectives

log = logging.getLogger(__name__)


def write_summary(
    store: Store, parent_run: str, objectives: Mapping[str, str], resume_command: str, final: bool = False
) -> list[TrialResult]:
    """Update the sweep's run (its id) with its trials, and return them.

    A summary can be written again at any time: if it cannot be written or drawn now (a full disk, a server that is down),
    a warning is logged.

    Args:
        objectives: metric -> ``minimize`` or ``maximize``.
        resume_command: for the description.
        final: draw the plots too, which takes seconds.
    """
    from mlflow.exceptions import MlflowException

    results = read_trial_results(store, parent_run)
    parent = store.client.get_run(parent_run)
    name = parent.data.tags.get(tag.SWEEP_NAME_TAG, parent.info.run_name or parent_run)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), results, objectives, f"Sweep {name}", final)
            store.client.log_artifacts(parent_run, folder, FOLDER)
        note = mlflow_description(results, objectives, parent.info.experiment_id, parent_run, resume_command)
        store.set_tags(parent_run, {**summary_tags(results, objectives), tag.NOTE_TAG: note})
        _log_results(store, parent, results, objectives)
    except (OSError, MlflowException) as error:
        log.warning("the summary of sweep %s could not be written: %s", name, error)
    return results


def _log_results(store: Store, parent: "Run", results: Sequence[TrialResult], objectives: Mapping[str, str]) -> None:
    """Log what fills the row of the sweep's run: metrics over its trials, and the choices that they share."""
    from mlflow.entities import Metric, Param

    finished = [result for result in results if result.status == "FINISHED"]
    shared = set.intersection(*(set(result.choices.items()) for result in finished)) if finished else set()
    swept = set(json.loads(parent.data.tags.get(tag.SWEEP_KEYS_TAG, "[]")))
    params = [Param(key, value) for key, value in sorted(shared) if key not in swept | parent.data.params.keys()]
    now, values = int(time.time() * 1000), metrics_of_children(results, objectives)
    metrics = [Metric(name, value, now, len(finished)) for name, value in values.items()]
    store.client.log_batch(parent.info.run_id, metrics, params if len(finished) == len(results) else [])


def summary_tags(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> dict[str, str]:
    """The best trial (or Pareto front) and the counts by status, as searchable tags."""
    found = counts(results)
    tags = {f"sweep.{status.lower()}": str(found.get(status, 0)) for status in ("FINISHED", "FAILED", "PRUNED")}
    winner = best_trial(results, objectives)
    if winner is not None:
        tags[tag.SWEEP_BEST_RUN_TAG], tags[tag.SWEEP_BEST_NAME_TAG] = winner.run_id or "", winner.name
        tags[tag.SWEEP_BEST_PARAMS_TAG] = json.dumps(winner.params, default=str)
    elif len(objectives) > 1:
        front = [child.run_id for one in pareto_front(results, objectives) for child in one.trials]
        tags[tag.SWEEP_PARETO_TAG] = json.dumps(front[:_MOST_OF_FRONT])
    return tags


def _write_files(
    folder: Path, results: Sequence[TrialResult], objectives: Mapping[str, str], title: str, final: bool
) -> None:
    (folder / "children.csv").write_text(to_csv(results, objectives), encoding="utf-8", newline="")
    (folder / "children.html").write_text(to_html(results, objectives, title), encoding="utf-8")
    if final and objectives:
        for name, draw in _plots(results, objectives).items():
            try:
                if (figure := draw()) is not None:
                    figure.savefig(folder / name, bbox_inches="tight")
            except Exception as error:  # a plot is no reason to lose a sweep
                log.warning("%s could not be drawn: %s: %s", name, type(error).__name__, error)


def _plots(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> "dict[str, Callable[[], Figure | None]]":
    """File name -> what draws it; of several objectives each has its parallel coordinates and importances."""
    from lightning_modules.sweep.plots import importance, parallel_coordinates, plot_pareto

    plots: dict[str, Callable[[], Figure | None]] = {}
    for index, (objective, direction) in enumerate(objectives.items()):
        ending = f"_{objective.replace('/', '_')}" if index else ""
        plots[f"parallel_coordinates{ending}.png"] = partial(parallel_coordinates, results, objective, direction)
        plots[f"importance{ending}.png"] = partial(importance, results, objective, direction)
    if len(objectives) > 1:
        plots["pareto.png"] = partial(plot_pareto, results, objectives)
    return plots


# --- as text -------------------------------------------------------------------------------------------------------
def mlflow_description(
    results: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str, run_id: str, resume_command: str
) -> str:
    """Describe the sweep in Markdown, with links to its best runs; at most `DESCRIPTION_LIMIT` characters.

    Args:
        experiment_id, run_id: of the sweep's own run.
        resume_command: repeated in it.
    """
    metrics = test_metrics(results, objectives)
    titles = ["#", "run", "status", *(f"best {name}" for name in objectives), *metrics, "duration"]
    top = f"{status_line(results)}. {_markdown_best(results, objectives, experiment_id)}"
    top += markdown_table([escape_markdown(title) for title in titles], [], left=(1, 2)) + "\n"
    commands = f"\nResume:\n\n    {resume_command}\n\nCompare over seeds:\n\n    touchstone compare {run_id}\n"
    left, rows = DESCRIPTION_LIMIT - len(top) - len(commands) - 100, ""
    for result in sorted_trials(results, objectives)[:DESCRIPTION_ROWS]:
        row = _markdown_row(result, objectives, metrics, experiment_id)
        if len(rows) + len(row) > left:
            break
        rows += row
    shown = rows.count("\n")
    more = f"\n{shown} of {len(results)} runs; all are in `sweep/children.html`.\n" if shown < len(results) else ""
    return (top + rows + more + commands)[:DESCRIPTION_LIMIT]


def _markdown_best(results: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str) -> str:
    ranked = ranked_configurations(results, objectives)
    if len(objectives) == 1 and ranked:
        winner, trials = ranked[0]
        values = format_objectives(winner, objectives)
        params = ", ".join(f"`{key}={value}`" for key, value in winner.params.items())
        params = f" ({params})" if params else ""
        named = _link(winner, experiment_id) if len(trials) == 1 else escape_markdown(winner.name)
        return f"**Best:** {named} with {values}{params}\n\n"
    front = [trial for one in pareto_front(results, objectives) for trial in one.trials]
    if len(objectives) < 2 or not front:
        return "\n\n"
    links = ", ".join(_link(result, experiment_id) for result in front[:DESCRIPTION_ROWS])
    return f"**Pareto front of {', '.join(objectives)}** ({len(front)} runs): {links}\n\n"


def _markdown_row(result: TrialResult, objectives: Iterable[str], metrics: Iterable[str], experiment_id: str) -> str:
    status = result.status.lower() + ", linked" * result.linked
    cells = [str(result.number), _link(result, experiment_id), status, *result_cells(result, objectives, metrics)]
    return f"| {' | '.join(cells)} |\n"


def result_cells(result: TrialResult, objectives: Iterable[str], metrics: Iterable[str]) -> list[str]:
    """The objectives, metrics and duration of a trial."""
    values = [result.values.get(name) for name in objectives] + [result.metrics.get(name) for name in metrics]
    return [*map(format_number, values), format_exact_duration(result.duration_s)]


def _link(result: TrialResult, experiment_id: str) -> str:
    if result.run_id is None or result.status == "MISSING":
        return escape_markdown(result.name)
    address = page(result.experiment_id or experiment_id, f"runs/{result.run_id}")
    return f"[{escape_markdown(result.name)}]({address})"


def format_objectives(result: TrialResult, objectives: Iterable[str]) -> str:
    return ", ".join(f"{name} {format_number(result.values.get(name))}" for name in objectives)


def test_metrics(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[str]:
    names = {name for result in results for name in result.metrics}
    compressed = {name for name in names if name.startswith("compressed/test/")}
    own = {name for name in names if name.startswith("test/") and name.count("/") == 1}
    return sorted((compressed or own) - set(objectives))[:MAX_TEST_METRICS]
