"""Object detection: the boxes of objects in images and their classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.compat.lightning import has_trainer
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.data.detection_data import NamedBoxes
from lightning_modules.zoo.model.detector import Detector
from lightning_modules.zoo.model.fcos import FCOS, grid
from lightning_modules.zoo.task.detect_files import BoxFinder, detect_files
from lightning_modules.zoo.task.detection_metrics import BoxMetrics

_SURE = 0.5  # score from which a detection is counted in the predictions of the test


class AllBoxes(nn.Module):
    """Raw images [B, 3, H, W] of any size -> all boxes [B, N, 4 + classes]: corners in pixels, and a score of each class.

    Low scores and overlapping boxes are left in: `torchvision.ops.batched_nms`, or the NonMaxSuppression of a runtime,
    removes them.
    """

    variable_dims = (2, 3)

    def __init__(self, preprocess: nn.Module, model: FCOS) -> None:
        super().__init__()
        self.preprocess, self.model = preprocess, model

    def forward(self, x: Tensor) -> Tensor:
        corners, scores = self.model.decode(self.model(self.preprocess(x)), *grid(x.shape[-2:]))
        return torch.cat([corners, scores], -1)


class Detection(Supervised):
    """Trains a `Detector`; the scores, which are served, are its detections [B, K, 6]: x1, y1, x2, y2, score, class.

    Each part of the loss is logged as ``train/loss_<part>``. ``val/loss`` is the mean over images of the loss of each.
    Predictions of the test are the numbers of boxes of each class: true, and detected with a score of 0.5 or more.

    Args:
        num_outputs: number of classes.
        metrics: names for ``val`` and ``test``: map, map_50, map_75, mar_100, class_map.
    """

    required_groups = ("model", "optimizer")  # the network has its own loss
    model: Detector

    @bounded
    def __init__(
        self,
        model: Detector,
        *,
        num_outputs: Count,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        **loop: Any,
    ) -> None:
        if not isinstance(model, Detector):
            raise UserError(f"task=detection: {type(model).__name__} is no detector; try model=fcos")
        own_loss: Any = self.total_loss
        super().__init__(model, own_loss, **loop)
        if not isinstance(self.preprocess, NamedBoxes):
            raise UserError("task=detection: the data have no boxes; try data=detection_folder")
        self.num_outputs, self.class_names = num_outputs, self.preprocess.class_names
        default = {"val": ("map", "map_50"), "test": ("map", "map_50", "map_75", "class_map")}
        self.metrics = select_metrics(metrics, default)

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(self.forward(x).shape)  # a detector is known by its class

    def output_name(self, i: int) -> str:
        return self.class_names[i] if i < len(self.class_names) else str(i)

    def total_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The sum of the losses of a batch."""
        return torch.stack([*self.model.losses(outputs, y).values()]).sum()

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = self.forward(batch["x"])
        losses = self.model.losses(outputs, batch["y"])
        if has_trainer(self) and self.trainer.training:
            parts = {f"train/loss_{name}": loss.detach() for name, loss in losses.items()}
            how: Any = {"on_step": False, "on_epoch": True, "batch_size": len(batch["y"]), "sync_dist": True}
            self.log_dict(parts, **how)
        return outputs, torch.stack([*losses.values()]).sum()

    def scores(self, outputs: Tensor) -> Tensor:
        """Detections [B, K, 6] of the network's outputs, or of what an evaluation keeps of them."""
        return outputs[:, 1:].unflatten(1, (-1, 6)) if outputs.ndim == 2 else self.model.detect(outputs)

    def export_model(self) -> nn.Module:
        """What is exported. Raises UserError if the network has no fixed number of boxes."""
        if not isinstance(self.model, FCOS):
            raise UserError(f"export: only detectors of model=fcos can be exported, not {type(self.model).__name__}")
        return AllBoxes(self.preprocess, self.model)

    def predict_files(self, files: Sequence[Path], out: TextIO, pictures: Path | None) -> int:
        """Write a row for each object in image files, and draw them; see `detect_files`."""
        finder = BoxFinder(lambda x: self.scores(self(x)), self.model.image_size, self.class_names)
        return detect_files(finder, files, out, pictures)

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        """Keep the loss and the detections of each image, [B, 1 + 6 K]."""
        batch = as_dict(batch)
        outputs, y = self.forward(batch["x"]), batch["y"]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # Faster R-CNN samples its proposals
            losses = torch.stack([self.total_loss(outputs[i : i + 1], y[i : i + 1]) for i in range(len(y))])
        kept = torch.cat([losses[:, None], self.model.detect(outputs).flatten(1)], 1)
        self.prediction_buffers[stage].add(kept, y, batch.get("index"), self.data_rank)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs[:, 0].double().mean().float()

    def build_metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"boxes": BoxMetrics(self.metrics[stage], self.num_outputs)})

    def metric_names(self) -> set[str]:
        self.build_metrics("val")  # checks the names
        names = {f"val/{name}" for name in self.metrics["val"] if name != "class_map"}
        of_classes = "class_map" in self.metrics["val"]
        classes = self._expand_names("val/class_map", of_classes, self.num_outputs) if of_classes else ()
        return {"val/loss", *names, *classes}

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        assert self.test_buffer is not None
        detections, y, outputs, index = self.test_buffer
        classes = torch.arange(self.num_outputs, device=y.device)
        sure = detections[..., 4:5] >= _SURE
        found = ((detections[..., 5:] == classes) & sure).sum(1).float()
        self.test_buffer = found, (y[..., 4:] == classes).sum(1).float(), outputs, index
