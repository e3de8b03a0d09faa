"""Publish a finished run: its logged model, its plots, its description, and a table in the terminal."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.report.figures import learning_curves
from lightning_modules.report.numbers import format_number
from lightning_modules.report.sample_figures import SampleGrid, draw_samples
from lightning_modules.report.tables import markdown_table, open_console, terminal_table
from lightning_modules.run.serve import write_module_pyfunc, write_pyfunc
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.record import Record
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import page
from lightning_modules.tracking.tags import NOTE_TAG

_CURVE_POINTS = 5000
_MOST_SCORES = 8  # in the description; a run's page lists all metrics below it
_NUM_SAMPLES, _NUM_DRAWS = 8, 4  # columns and rows of the figure of augmented samples


def publish(
    record: Record,
    weights: Path,
    data: pl.LightningDataModule,
    task: pl.LightningModule,
    not_servable: str,
    metrics: Mapping[str, float],
) -> None:
    """Turn the best weights into a READY LoggedModel, servable unless `not_servable` says why not, and describe the run.

    Raises UserError if the weights, loaded back, are not those that were tested.
    """
    record.logger.flush()
    write_served(weights, data, task, not_servable, record.model_id, record.run_id)
    step = task.tested_step if isinstance(task, Supervised) else task.global_step
    note = run_description(record, metrics, not_servable=not_servable)
    origin = f"Best weights of the run [{record.run_name}]({page(record.experiment_id, f'runs/{record.run_id}')})."
    about = {NOTE_TAG: f"{origin}\n\n{note}"}
    record.send({"do": "model", "model_id": record.model_id, "step": step, "tags": about})
    record.send({"do": "tags", "tags": {NOTE_TAG: note}})


def write_served(
    path: Path, data: pl.LightningDataModule, task: pl.LightningModule, not_servable: str, model_id: str, run_id: str
) -> None:
    """Write what MLflow needs to serve the weights beside them, unless `not_servable`."""
    if isinstance(task, Supervised) and isinstance(data, InMemoryData):
        write_pyfunc(path, data.example(4), task, held_out_samples(data), model_id, run_id)
    elif not not_servable:
        write_module_pyfunc(path, task, model_id, run_id)


def held_out_samples(data: InMemoryData, count: int = 64) -> torch.Tensor:
    """Raw samples of the test part, else of the validation or training part."""
    part = next(part for part in ("test", "val", "train") if len(data.splits[part]))
    x, _ = (data.arrays.test if part == "test" else None) or (data.arrays.x, data.arrays.y)
    return x.index_select(0, data.splits[part][:count])


def draw_augmented(record: Record, data: InMemoryData, task: Supervised) -> None:
    """Plot training samples beside their augmented versions."""
    if task.augmentation is None or not len(getattr(task.augmentation, "transforms", [task.augmentation])):
        return
    train = data.splits["train"]
    index = train[
        torch.linspace(0, len(train) - 1, min(_NUM_SAMPLES, len(train))).long()
    ]  # data sets are often sorted by class
    batch = {"x": data.arrays.x.index_select(0, index), "y": data.arrays.y[index], "index": index}
    drawn = [batch, *(task.augmentation(batch, torch.Generator().manual_seed(draw)) for draw in range(_NUM_DRAWS))]
    titles = [[_label_text(y, data.class_names) for y in one["y"]] for one in drawn]
    rate, picture = getattr(data, "sample_rate", None), getattr(data, "picture", lambda one: one["x"])
    shown = SampleGrid(data.domain, [picture(one) for one in drawn], titles, data.sample_text, rate)
    folder = record.folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    draw_samples(shown).savefig(folder / "augmented.png", dpi=120)


def _label_text(y: torch.Tensor, names: Sequence[str] | None) -> str:
    """A target as text: a class, the shares of a mixed target, or a value."""
    if y.ndim == 0:
        return names[int(y)] if names and not y.is_floating_point() else f"{float(y):.3g}"
    if names is None or y.ndim > 1:
        return ", ".join(f"{value:.3g}" for value in y.tolist()[:4]) if y.ndim == 1 else ""
    best = y.topk(min(2, len(y)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{names[i]} {share:.0%}" for i, share in pairs if share > 0)


def draw_curves(record: Record) -> None:
    """Plot the recorded history of the train and val metrics."""
    record.logger.flush()
    if record.is_cut_off:
        return
    names = sorted(record.client.get_run(record.run_id).data.metrics)
    history = {name: _history(record, name) for name in names if name.startswith(("train/", "val/"))}
    if history:
        figure = learning_curves(history)
        folder = record.folder / "pictures"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / "curves.png", dpi=120)


def run_description(record: Record, metrics: Mapping[str, float], below: str = "", not_servable: str = "") -> str:
    """The run's description in Markdown: its test metrics in one row, `below`, and the commands that rerun and serve it."""
    serve = f"mlflow models serve -m models:/{record.model_id} --env-manager local"
    store = shlex.quote(mask_secrets(record.store.uri))
    scores = _test_metrics(metrics)[:_MOST_SCORES]
    table = markdown_table([name for name, _ in scores], [[format_number(value) for _, value in scores]], left=())
    rerun = "" if record.is_partial else f"`touchstone rerun {record.run_id}` reruns it and compares the metrics;\n"
    served = f"`touchstone serve {record.run_id}` serves it, as `MLFLOW_TRACKING_URI={store} {serve}` does."
    commands = rerun + (f"{not_servable[:1].upper()}{not_servable[1:]}." if not_servable else served)
    file = record.folder / "predictions" / "intervals.md"  # of `quality.prediction_recorder`
    intervals = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    return "\n\n".join(filter(None, (table if scores else "", intervals, below.strip(), commands))) + "\n"


def _test_metrics(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    own = [name for name in sorted(metrics) if name.removeprefix("tta/").startswith(("test/", "test_"))]
    return [(name, metrics[name]) for name in own if name.removeprefix("tta/").count("/") <= 1]


def _history(record: Record, name: str) -> list[tuple[int, float]]:
    points = record.client.get_metric_history(record.run_id, name)
    thin = max(1, len(points) // _CURVE_POINTS)
    return [(point.step, point.value) for point in points[::thin]]


def print_report(record: Record | None, name: str, metrics: Mapping[str, float]) -> None:
    """Print the test metrics, the run's name and id, and where to view it."""
    console = open_console()
    rows = [(name, f"{value:.4f}") for name, value in _test_metrics(metrics)]
    if rows:
        console.print(terminal_table(["metric", "value"], rows, title=name))
    if record is not None:
        console.print(f"run    {record.run_name}  {record.run_id}", soft_wrap=True)
        console.print(f"model  models:/{record.model_id}", highlight=False)
        where = record.store.where_to_see(record.experiment_id, record.run_id)
        console.print(f"see    {where}", highlight=False, soft_wrap=True)
