"""Validation images with their boxes, and below them with those that the model detects, as a picture of the run."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.io import write_png
from torchvision.utils import make_grid

from lightning_modules.config.bounds import Count, Fraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import eval_outputs
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.data.detection_data import DetectionFolder, draw_boxes
from lightning_modules.zoo.task.detection import Detection


class BoxPictures(pl.Callback):
    """Writes ``pictures/boxes.png`` after each validation: above the truth, below the detections with their scores.

    Args:
        count: the first so many images of the validation part.
        threshold: detections of lower scores are not drawn.
    """

    @bounded
    def __init__(self, count: Count = 4, threshold: Fraction = 0.4) -> None:
        self.count, self.threshold = count, threshold

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Detection):
            raise UserError(f"callbacks.box_pictures: {type(pl_module).__name__} detects no boxes; remove it")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        recorded = any(isinstance(logger, BufferedMLflowLogger) for logger in trainer.loggers)
        if trainer.sanity_checking or not recorded or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Detection) and isinstance(data, DetectionFolder)
        index = data.splits["val"][: self.count]
        x, y = data.arrays.x.index_select(0, index), data.arrays.y[index]
        rows = [
            *data.picture({"x": x, "y": y}),
            *draw_detections(x, eval_outputs(pl_module, x), data.box_classes, self.threshold),
        ]
        file = Path(trainer.default_root_dir) / "pictures" / "boxes.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        write_png(make_grid(rows, nrow=len(x)), str(part))
        part.replace(file)


def draw_detections(x: Tensor, detections: Tensor, names: list[str], threshold: float) -> list[Tensor]:
    """Return the images x [B, 3, H, W] with the detections [B, K, 6] of at least this score drawn on them."""
    drawn = []
    for image, found in zip(x, detections, strict=True):
        found = found[found[:, 4] >= threshold]
        drawn.append(draw_boxes(image, torch.cat([found[:, :4], found[:, 5:]], 1), names, found[:, 4]))
    return drawn
