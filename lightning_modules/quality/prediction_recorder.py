"""The test predictions of a run, one row per sample, with its worst errors and intervals of its test metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.config.bounds import Count, Seed, Whole, bounded
from lightning_modules.config.errors import warn
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.quality.metric_intervals import write_intervals
from lightning_modules.quality.plots import plot_samples
from lightning_modules.quality.samples import collect_samples
from lightning_modules.task.evaluation import EvaluatedModule
from lightning_modules.task.metrics import MAX_RANKS, metric_suffixes
from lightning_modules.tracking.logger import BufferedMLflowLogger

FILE = "predictions/test.parquet"  # among the artifacts of a run


class PredictionRecorder(pl.Callback):
    """Writes ``predictions/`` after the test: ``test.parquet``, ``worst.csv``, ``worst.png`` and ``intervals.json``.

    For tasks derived from Supervised; for others, and beyond `max_values`, it is off and says so. The ranks of a test
    together give each sample once.

    Args:
        max_values: samples times outputs, above which nothing is written.
        worst: errors in the table and the picture, the largest loss first.
        resamples: of the bootstrap of the test metrics; 0: no intervals.
        intervals: ``means``, of the metrics that are a mean over samples (loss, accuracy, mse, mae); ``all``, of every
            metric of a classification or regression that is one value, computed on each resample.
        seed: of the resamples, which have a generator of their own.
    """

    @bounded
    def __init__(
        self,
        max_values: Count = 5_000_000,
        worst: Whole = 32,
        resamples: Whole = 1000,
        intervals: Literal["means", "all"] = "means",
        seed: Seed = 0,
    ) -> None:
        self.max_values, self.worst, self.resamples, self.intervals = max_values, worst, resamples, intervals
        self.seed = seed
        self._has_index = False

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *step: object, **of: object
    ) -> None:
        self._has_index = isinstance(step[1], Mapping) and "index" in step[1]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if lacking := self._lacks(trainer, pl_module):
            warn(f"test predictions: off: {lacking}")
            return
        assert isinstance(pl_module, EvaluatedModule)
        file = Path(trainer.default_root_dir) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        data = trainer.datamodule  # type: ignore[attr-defined]
        columns = getattr(data, "targets", None) if isinstance(data, InMemoryData) else None
        table = prediction_table(pl_module, None if self._has_index else trainer.world_size, columns)
        part = file.with_name(f".{file.name}.part")
        table.to_parquet(part, index=False)
        part.replace(file)
        if self.worst:
            write_worst(file.parent, data, table.nlargest(self.worst, "loss"))
        if self.resamples:
            task = pl_module if self.intervals == "all" else None
            write_intervals(file.parent, table, trainer.callback_metrics, self.resamples, self.seed, task)

    def _lacks(self, trainer: pl.Trainer, module: pl.LightningModule) -> str:
        if not any(isinstance(logger, BufferedMLflowLogger) for logger in trainer.loggers):
            return "the run is not recorded"
        if not isinstance(module, EvaluatedModule) or module.test_buffer is None:
            return f"{type(module).__name__} is not derived from Supervised"
        if (values := module.test_buffer[0].numel()) > self.max_values:
            return f"{values} values are more than callbacks.test_predictions.max_values={self.max_values}"
        return ""


def prediction_table(
    task: EvaluatedModule, world_size: int | None, targets: Sequence[str] | None = None
) -> pd.DataFrame:
    """A row per sample of the task's last test, by its index in the data; `world_size`: the data give no index.

    `targets` are the names of several targets of a table.
    """
    assert task.test_buffer is not None
    scores, y, outputs, index = task.test_buffer
    if world_size:  # the ranks took the samples in turn
        index = index // MAX_RANKS * world_size + index % MAX_RANKS
    outputs_of = range(scores.shape[1] if scores.ndim > 1 else 1)
    several = targets if targets and len(targets) == len(outputs_of) else None
    names = metric_suffixes(list(several or map(task.output_name, outputs_of)))
    columns = {"sample": index, **_columns(scores, y, getattr(task, "kind", ""), names)}
    columns["loss"] = sample_losses(task, outputs, y)
    table = pd.DataFrame({key: value.cpu().numpy() for key, value in columns.items()})
    return table.sort_values("sample", kind="stable", ignore_index=True)


def _columns(scores: Tensor, y: Tensor, kind: str, names: list[str]) -> dict[str, Tensor]:
    """Targets and predictions, and for classification the scores; several labels or values have a column each."""
    if kind == "multiclass":
        return {"target": y, "prediction": scores.argmax(-1)} | _each("score", scores, names)
    if kind:  # binary, multilabel
        hard = (scores > 0.5).long()
        return _each("target", y.long(), names) | _each("prediction", hard, names) | _each("score", scores, names)
    return _each("target", y, names) | _each("prediction", scores, names)


def _each(column: str, values: Tensor, names: list[str]) -> dict[str, Tensor]:
    values = values.reshape(len(values), -1)
    if values.shape[1] == 1:
        return {column: values[:, 0]}
    names = names if len(names) == values.shape[1] else [str(i) for i in range(values.shape[1])]
    return {f"{column}/{name}": values[:, i] for i, name in enumerate(names)}


@torch.no_grad()
def sample_losses(task: EvaluatedModule, outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of each sample [N]: without reduction, or that of a batch of it alone."""
    if hasattr(task.loss, "reduction"):
        before, task.loss.reduction = task.loss.reduction, "none"
        try:
            losses = task.evaluation_loss(outputs, y)
        finally:
            task.loss.reduction = before
        if losses.ndim and len(losses) == len(y):
            return losses.reshape(len(y), -1).mean(1)
    return torch.stack([task.evaluation_loss(outputs[i : i + 1], y[i : i + 1]) for i in range(len(y))])


def write_worst(folder: Path, data: object, worst: pd.DataFrame) -> None:
    """Write the rows with the largest losses as a table and, of our data, a picture: texts and rows of a table as text."""
    worst.to_csv(folder / "worst.csv", index=False)
    if not isinstance(data, InMemoryData) or not {"target", "prediction"} <= set(worst):
        return
    first = len(data.arrays.y) if data.arrays.test else 0  # an official test part follows the others
    names = dict(enumerate(data.class_names or [])) if data.num_classes else {}
    cells = [
        (
            first + int(sample),
            f"{names.get(target, f'{target:.4g}')} → {names.get(found, f'{found:.4g}')}\nloss {loss:.3g}",
        )
        for sample, target, found, loss in worst[["sample", "target", "prediction", "loss"]].itertuples(index=False)
    ]
    title = "Test samples with the largest losses: target → prediction"
    plot_samples(collect_samples(data), cells, title).savefig(folder / "worst.png", dpi=120)
