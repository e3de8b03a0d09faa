"""Semantic segmentation: a class for each pixel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.augmentation.image.masks import IGNORED, require_masks
from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.task.mask_figure import draw_masks
from lightning_modules.zoo.task.pixel_metrics import pixel_counts, pixel_metrics
from lightning_modules.zoo.task.tiling import in_tiles

VAL_METRICS = ("mean_iou", "dice", "pixel_accuracy")


class Segmentation(Supervised):
    """Logits [B, C, H, W] against classes uint8 [B, H, W], where 255 is ignored; the served model returns probabilities.

    ``val/loss`` is nats per labelled pixel, whatever the loss that is trained. Metrics are those of all pixels of a split.

    Args:
        num_outputs, class_names, class_counts: classes, and their pixels in the training part; from the data.
        kind: which targets the data must have.
        class_weights: ``balanced``: the loss weights a class by n / (C * n_c).
        metrics: names for ``val`` and ``test``: mean_iou, dice, pixel_accuracy, class_iou, class_dice.
        tile: side of the tiles in which larger images are evaluated and predicted; None: whole images.
        overlap: pixels that neighbouring tiles share.
        pictures: validation images drawn at the end of the training, beside their truth.
    """

    variable_dims = (2, 3)  # an exported model takes images of any size
    train_metric_names = ("pixel_accuracy",)  # the mean over augmented images

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        kind: Literal["segmentation"] = "segmentation",
        class_names: Sequence[str] | None = None,
        class_counts: Tensor | None = None,
        class_weights: Literal["balanced"] | None = None,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        tile: Count | None = None,
        overlap: Whole = 32,
        pictures: Whole = 4,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if self.tta is not None:
            raise UserError(
                "tta: the views of an image would have to be moved back; use tta=none with task=segmentation"
            )
        if self.augmentation is not None:
            require_masks(self.augmentation)
        if tile is not None and overlap >= tile:
            raise UserError(f"task.overlap={overlap} must be less than task.tile={tile}")
        self.num_outputs, self.class_names = num_outputs, list(class_names or map(str, range(num_outputs)))
        self.metrics = select_metrics(metrics, {"val": VAL_METRICS, "test": (*VAL_METRICS, "class_iou")})
        self.tile, self.overlap, self.pictures = tile, overlap, pictures
        if class_weights and class_counts is not None:
            self.loss.weight = class_counts.sum() / (len(class_counts) * class_counts.clamp(min=1).float())

    def forward(self, x: Tensor) -> Tensor:
        """Raw images [B, C, H, W] -> logits [B, num_outputs, H, W], in tiles where `tile` says so."""
        if self.training or self.tile is None or max(x.shape[2:]) <= self.tile:
            return super().forward(x)
        return in_tiles(super().forward, x, self.tile, self.overlap)

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        loss = super().training_loss(batch, step)
        outputs, y = self.train_outputs.pop()
        labelled = y != IGNORED
        right = (outputs.argmax(1) == y).logical_and(labelled).sum((1, 2))
        shares = right / labelled.sum((1, 2)).clamp(min=1)  # of each image: logits are not kept
        self.train_outputs.append((shares, shares))
        return loss

    def train_metric_sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.sum(0, keepdim=True)

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        return (len(x), num_outputs, *x.shape[2:])

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities of logits; the counts of an evaluation stay."""
        return outputs.softmax(1) if outputs.ndim == 4 else outputs

    def output_name(self, i: int) -> str:
        """The name of a class, or of what is kept of an image (`pixel_counts`)."""
        if i == 3 * self.num_outputs:
            return "nats"
        group, number = divmod(i, self.num_outputs)
        return self.class_names[number] + ("", " predicted", " true")[group]

    def build_metrics(self, stage: str) -> MetricCollection:
        return pixel_metrics(self.metrics[stage], self.num_outputs)

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        batch = as_dict(batch)
        counts, true = pixel_counts(self.forward(batch["x"]), batch["y"])
        self.prediction_buffers[stage].add(counts, true, batch.get("index"), self.data_rank)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Nats per labelled pixel, of the counts of images and of their true pixels [N, C]."""
        return (outputs[:, -1].double().sum() / y.sum()).float()

    def classes_without_samples(self, y: Tensor) -> list[str]:
        return [name for name, pixels in zip(self.class_names, y.sum(0).tolist(), strict=False) if not pixels]

    def on_fit_end(self) -> None:
        super().on_fit_end()
        recorded = any(isinstance(logger, BufferedMLflowLogger) for logger in self.loggers)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        index = data.splits["val"] if recorded and self.trainer.is_global_zero and hasattr(data, "picture") else []
        if len(index) and self.pictures:
            index = index[torch.linspace(0, len(index) - 1, min(self.pictures, len(index))).long()]
            x, y = data.arrays.x[index], data.arrays.y[index]
            figure = draw_masks(x, y, self.predict_masks(x), self.class_names)
            folder = Path(self.trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / "masks.png", dpi=120)

    @torch.no_grad()
    def predict_masks(self, x: Tensor) -> Tensor:
        """Return the likeliest class of each pixel, uint8 [B, H, W], of raw images, in evaluation mode."""
        training = self.training
        try:
            self.eval()
            return torch.cat([self.forward(one.to(self.device)).argmax(1).to("cpu", torch.uint8) for one in x.split(1)])
        finally:
            self.train(training)
