"""The summary in the sweep's run: a table of the trials, the best one, plots, and a description with links."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import format_exact_duration, format_number
from lightning_modules.report.tables import escape_markdown, markdown_table, terminal_table
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results
from lightning_modules.sweep.trial_table import (
    best_trial,
    counts,
    first_line,
    pareto_trials,
    ranked_trials,
    sorted_trials,
    status_line,
    to_csv,
    to_html,
)
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run
    from rich.console import Group

FOLDER = "sweep"  # among the artifacts of the sweep's run
_MOST_OF_FRONT = 200  # run ids that a tag has room for
DESCRIPTION_ROWS, TERMINAL_ROWS, MAX_FAILURES = 20, 10, 5
DESCRIPTION_LIMIT = 8000  # characters of a tag in MLflow
_TEST_METRICS = 3  # shown beside the objectives

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
    name = parent.data.tags.get("sweep.name", parent.info.run_name or parent_run)
    try:
        _write_files(store, parent, results, objectives, f"Sweep {name}", final)
        note = mlflow_description(results, objectives, parent.info.experiment_id, parent_run, resume_command)
        _set_tags(store, parent_run, {**summary_tags(results, objectives), "mlflow.note.content": note})
    except (OSError, MlflowException) as error:
        log.warning("the summary of sweep %s could not be written: %s", name, error)
    return results


def summary_tags(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> dict[str, str]:
    """The best trial (or Pareto front) and the counts by status, as searchable tags."""
    found = counts(results)
    tags = {f"sweep.{status.lower()}": str(found.get(status, 0)) for status in ("FINISHED", "FAILED", "PRUNED")}
    winner = best_trial(results, objectives)
    if winner is not None:
        params = json.dumps(winner.params, default=str)
        tags |= {"sweep.best_run_id": winner.run_id or "", "sweep.best_name": winner.name, "sweep.best_params": params}
    elif len(objectives) > 1:
        front = [child.run_id for child in pareto_trials(results, objectives)]
        tags["sweep.pareto_run_ids"] = json.dumps(front[:_MOST_OF_FRONT])
    return tags


def _set_tags(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _write_files(
    store: Store, parent: "Run", results: Sequence[TrialResult], objectives: Mapping[str, str], title: str, final: bool
) -> None:
    """Write directly into the artifact folder if it is on this disk; else upload all at once."""
    place = local_folder(parent.info.artifact_uri)
    if place is not None:
        return _fill(place / FOLDER, results, objectives, title, final)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), results, objectives, title, final)
        return store.client.log_artifacts(parent.info.run_id, folder, FOLDER)


def _fill(folder: Path, results: Sequence[TrialResult], objectives: Mapping[str, str], title: str, final: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "children.csv").write_text(to_csv(results, objectives), encoding="utf-8", newline="")
    (folder / "children.html").write_text(to_html(results, objectives, title), encoding="utf-8")
    if final and objectives:
        for name, draw in _pictures(results, objectives).items():
            _save(draw, folder / name)


def _pictures(
    results: Sequence[TrialResult], objectives: Mapping[str, str]
) -> "dict[str, Callable[[], Figure | None]]":
    """File name -> what draws it; of several objectives each has its parallel coordinates and importances."""
    from lightning_modules.sweep.plots import importance, parallel_coordinates, pareto_front

    drawn: dict[str, Callable[[], Figure | None]] = {}
    for index, (objective, direction) in enumerate(objectives.items()):
        ending = f"_{objective.replace('/', '_')}" if index else ""
        drawn[f"parallel_coordinates{ending}.png"] = partial(parallel_coordinates, results, objective, direction)
        drawn[f"importance{ending}.png"] = partial(importance, results, objective, direction)
    if len(objectives) > 1:
        drawn["pareto.png"] = partial(pareto_front, results, objectives)
    return drawn


def _save(draw: "Callable[[], Figure | None]", file: Path) -> None:
    try:
        figure = draw()
        if figure is not None:
            figure.savefig(file, bbox_inches="tight")
    except Exception as error:  # a picture is no reason to lose a sweep
        log.warning("%s could not be drawn: %s: %s", file.name, type(error).__name__, error)


# --- as text -------------------------------------------------------------------------------------------------------
def mlflow_description(
    results: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str, run_id: str, resume_command: str
) -> str:
    """Describe the sweep in Markdown, with links to its best runs; at most `NOTE_LIMIT` characters.

    Args:
        experiment_id, run_id: of the sweep's own run.
        resume_command: repeated in it.
    """
    metrics = _test_metrics(results, objectives)
    titles = ["#", "run", "status", *(f"best {name}" for name in objectives), *metrics, "duration"]
    top = f"{status_line(results)}\n\n{_markdown_best(results, objectives, experiment_id)}"
    top += markdown_table([escape_markdown(title) for title in titles], [], left=(1, 2)) + "\n"
    commands = f"\nResume:\n\n    {resume_command}\n\nCompare over seeds:\n\n    touchstone compare {run_id}\n"
    free_slots, rows = DESCRIPTION_LIMIT - len(top) - len(commands) - 100, ""
    for result in sorted_trials(results, objectives)[:DESCRIPTION_ROWS]:
        row = _markdown_row(result, objectives, metrics, experiment_id)
        if len(rows) + len(row) > free_slots:
            break
        rows += row
    shown = rows.count("\n")
    more = f"\n{shown} of {len(results)} runs; all are in `sweep/children.html`.\n" if shown < len(results) else ""
    return (top + rows + more + commands)[:DESCRIPTION_LIMIT]


def _markdown_best(results: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str) -> str:
    winner = best_trial(results, objectives)
    if winner is not None:
        values = _format_objectives(winner, objectives)
        params = ", ".join(f"`{key}={value}`" for key, value in winner.params.items())
        return f"**Best:** {_link(winner, experiment_id)} with {values}\n\n{params}\n\n"
    front = pareto_trials(results, objectives)
    if len(objectives) < 2 or not front:
        return ""
    links = ", ".join(_link(result, experiment_id) for result in front[:DESCRIPTION_ROWS])
    return f"**Pareto front of {', '.join(objectives)}** ({len(front)} runs): {links}\n\n"


def _markdown_row(result: TrialResult, objectives: Iterable[str], metrics: Iterable[str], experiment_id: str) -> str:
    status = result.status.lower() + ", linked" * result.linked
    cells = [str(result.number), _link(result, experiment_id), status, *_cells(result, objectives, metrics)]
    return f"| {' | '.join(cells)} |\n"


def _cells(result: TrialResult, objectives: Iterable[str], metrics: Iterable[str]) -> list[str]:
    """The objectives, metrics and duration of a trial."""
    values = [result.values.get(name) for name in objectives] + [result.metrics.get(name) for name in metrics]
    return [*map(format_number, values), format_exact_duration(result.duration_s)]


def _link(result: TrialResult, experiment_id: str) -> str:
    if result.run_id is None or result.status == "MISSING":
        return escape_markdown(result.name)
    return (
        f"[{escape_markdown(result.name)}](#/experiments/{result.experiment_id or experiment_id}/runs/{result.run_id})"
    )


def _format_objectives(result: TrialResult, objectives: Iterable[str]) -> str:
    return ", ".join(f"{name} {format_number(result.values.get(name))}" for name in objectives)


def _test_metrics(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[str]:
    names = {name for result in results for name in result.metrics}
    compressed = {name for name in names if name.startswith("compressed/test/")}
    own = {name for name in names if name.startswith("test/") and name.count("/") == 1}
    return sorted((compressed or own) - set(objectives))[:_TEST_METRICS]


def terminal_summary(results: Sequence[TrialResult], objectives: Mapping[str, str], title: str) -> "Group":
    """What is printed when a sweep ends: the best trials, counts by status, and the errors of failed ones."""
    from rich.console import Group
    from rich.text import Text

    metrics = _test_metrics(results, objectives)
    front = {result.number for result in pareto_trials(results, objectives)} if len(objectives) > 1 else set()
    top = _top(results, objectives)
    table = terminal_table(
        ["#", "run", *(f"best {name}" for name in objectives), *metrics, "duration"],
        [[str(result.number), result.name, *_cells(result, objectives, metrics)] for result in top],
        left=(1,),
        styles=["bold" if result.number in front else "" for result in top],
    )
    lines = [Text(line, style="red") for line in _failure_lines(results)]
    winner = best_trial(results, objectives)
    if winner is not None:
        line = f"best   {winner.name}  {_format_objectives(winner, objectives)}  {winner.run_id}"
        lines.insert(0, Text(line, style="bold"))
    headline = Text(f"{title}: {status_line(results)}", style="bold")
    return Group(headline, *[table] * bool(top), *lines)


def _top(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The Pareto front first, if there are several objectives."""
    ranked = pareto_trials(results, objectives) if len(objectives) > 1 else []
    numbers = {result.number for result in ranked}
    others = [result for result in ranked_trials(results, objectives) if result.number not in numbers]
    return (ranked + others)[:TERMINAL_ROWS]


def _failure_lines(results: Iterable[TrialResult]) -> list[str]:
    failed = [result for result in results if result.status == "FAILED"]
    lines = [f"failed {result.name}: {first_line(result.error)}" for result in failed[:MAX_FAILURES]]
    return lines + [f"failed … and {len(failed) - MAX_FAILURES} more"] * (len(failed) > MAX_FAILURES)
