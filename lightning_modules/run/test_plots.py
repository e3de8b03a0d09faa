"""Plots of the test predictions: confusion matrix, ROC curves, predicted vs. true values."""

from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.config.plain import PlainDict
from lightning_modules.report import figures


class TestPlots(Callback):
    """Plots the module's ``test_buffer`` (scores [N, K] or [N], targets, …) after the test.

    Class targets give a confusion matrix (also as CSV) and ROC curves, others predicted against true values.
    """

    def __init__(self, folder: Path, class_names: list[str] | None) -> None:
        self.folder = folder
        self.class_names = class_names

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = getattr(pl_module, "test_buffer", None)
        if kept is None or not trainer.is_global_zero:
            return
        scores, targets = (part.cpu() for part in kept[:2])
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self._figures(scores, targets).items():
            figure.savefig(self.folder / f"{name}.png", dpi=120)

    def _figures(self, scores: Tensor, targets: Tensor) -> PlainDict:
        if targets.is_floating_point():
            several_labels = targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all())
            return {} if several_labels else {"predicted_vs_true": figures.predicted_vs_true(scores, targets)}
        if targets.ndim > 1:
            return {}
        scores = torch.stack([1 - scores, scores], -1) if scores.ndim == 1 else scores
        size = scores.shape[1]
        names = self.class_names or [str(i) for i in range(size)]
        names = [*names, *(str(i) for i in range(len(names), size))]
        matrix = torch.bincount(targets * size + scores.argmax(-1), minlength=size * size).reshape(size, size)
        table = pd.DataFrame(matrix.numpy(), index=names, columns=names)
        table.to_csv(self.folder / "confusion_matrix.csv", index_label="true, then predicted")
        drawn = {"confusion_matrix": figures.confusion_matrix(matrix, names)}
        if size <= 20:
            drawn["roc"] = figures.roc_curves(scores, targets, names)
        return drawn
