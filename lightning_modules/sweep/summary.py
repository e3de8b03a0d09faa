"""What the run of a sweep shows: the table of its trials, the best one, pictures, and a description with links."""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.sweep.ranking import best_trial, pareto_trials
from lightning_modules.sweep.summary_text import mlflow_description
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results
from lightning_modules.sweep.trial_table import counts, to_csv, to_html
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run

FOLDER = "sweep"  # among the artifacts of the sweep's run
_MOST_OF_FRONT = 200  # run ids that a tag has room for

log = logging.getLogger(__name__)


def write_summary(
    store: Store, parent_run: str, objectives: Mapping[str, str], resume_command: str, final: bool = False
) -> list[TrialResult]:
    """Bring the sweep's run (its id) up to date with its trials, and return them.

    A summary can be written again at any time: what cannot be written or drawn now (a full disk, a silent server)
    is warned of and ends nothing.

    Args:
        objectives: metric -> ``minimize`` or ``maximize``.
        resume_command: what goes on with the sweep, for the description.
        final: draw the pictures too; without, it is cheap enough to be called now and then.
    """
    from mlflow.exceptions import MlflowException

    children = read_trial_results(store, parent_run)
    parent = store.client.get_run(parent_run)
    name = parent.data.tags.get("sweep.name", parent.info.run_name or parent_run)
    try:
        _write_files(store, parent, children, objectives, f"Sweep {name}", final)
        note = mlflow_description(children, objectives, parent.info.experiment_id, parent_run, resume_command)
        _set_tags(store, parent_run, {**summary_tags(children, objectives), "mlflow.note.content": note})
    except (OSError, MlflowException) as error:
        log.warning("the summary of sweep %s could not be written: %s", name, error)
    return children


def summary_tags(children: Sequence[TrialResult], objectives: Mapping[str, str]) -> dict[str, str]:
    """The best child (or the front of several objectives) and how the trials ended, as tags to search by."""
    found = counts(children)
    tags = {f"sweep.{status.lower()}": str(found.get(status, 0)) for status in ("FINISHED", "FAILED", "PRUNED")}
    winner = best_trial(children, objectives)
    if winner is not None:
        params = json.dumps(winner.params, default=str)
        tags |= {"sweep.best_run_id": winner.run_id or "", "sweep.best_name": winner.name, "sweep.best_params": params}
    elif len(objectives) > 1:
        front = [child.run_id for child in pareto_trials(children, objectives)]
        tags["sweep.pareto_run_ids"] = json.dumps(front[:_MOST_OF_FRONT])
    return tags


def _set_tags(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _write_files(
    store: Store, parent: "Run", children: Sequence[TrialResult], objectives: Mapping[str, str], title: str, final: bool
) -> None:
    """Straight into the folder of the artifacts where that is on this disk; else all in one upload."""
    place = local_folder(parent.info.artifact_uri)
    if place is not None:
        return _fill(place / FOLDER, children, objectives, title, final)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), children, objectives, title, final)
        return store.client.log_artifacts(parent.info.run_id, folder, FOLDER)


def _fill(
    folder: Path, children: Sequence[TrialResult], objectives: Mapping[str, str], title: str, final: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "children.csv").write_text(to_csv(children, objectives), encoding="utf-8", newline="")
    (folder / "children.html").write_text(to_html(children, objectives, title), encoding="utf-8")
    if final and objectives:
        for name, draw in _pictures(children, objectives).items():
            _save(draw, folder / name)


def _pictures(
    children: Sequence[TrialResult], objectives: Mapping[str, str]
) -> "dict[str, Callable[[], Figure | None]]":
    """File name -> what draws it; of several objectives each has its parallel coordinates and importances."""
    from lightning_modules.sweep.parallel_coordinates import parallel_coordinates
    from lightning_modules.sweep.plots import importance, pareto_front

    drawn: dict[str, Callable[[], Figure | None]] = {}
    for index, (objective, direction) in enumerate(objectives.items()):
        ending = f"_{objective.replace('/', '_')}" if index else ""
        drawn[f"parallel_coordinates{ending}.png"] = partial(parallel_coordinates, children, objective, direction)
        drawn[f"importance{ending}.png"] = partial(importance, children, objective, direction)
    if len(objectives) > 1:
        drawn["pareto.png"] = partial(pareto_front, children, objectives)
    return drawn


def _save(draw: "Callable[[], Figure | None]", file: Path) -> None:
    try:
        figure = draw()
        if figure is not None:
            figure.savefig(file)
    except Exception as error:  # a picture is no reason to lose a sweep
        log.warning("%s could not be drawn: %s: %s", file.name, type(error).__name__, error)
