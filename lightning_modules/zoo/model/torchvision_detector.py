"""Detectors of torchvision, such as SSDlite and Faster R-CNN, with random weights and images of any size."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model_builder, list_models
from torchvision.models.detection.image_list import ImageList

from lightning_modules.config.bounds import Count, Fraction, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.zoo.model.detector import Detector

_STAGES = ("", "rpn", "roi_heads")  # modules that return losses in training mode and boxes in evaluation mode


class ReadyImages(nn.Module):
    """In place of torchvision's own transform: the images are standardized and of one size already."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        size = tuple(images[0].shape[-2:])
        return ImageList(images[0].expand(len(images), *images[0].shape), [size] * len(images)), targets

    def postprocess(self, found: Any, sizes: object, original_sizes: object) -> Any:
        return found


class ReadyFeatures(nn.Module):
    """In place of the backbone: returns the features that it has computed."""

    levels: "OrderedDict[str, Tensor]"

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        return self.levels


class TorchvisionDetector(Detector):
    """A detector of ``torchvision.models.detection``. The outputs are the features of its backbone, [B, 1, size]: what
    follows gives losses or boxes, whichever is asked for, so that there is a loss in validation, too.

    Args:
        input_shape, num_outputs: image and number of classes, without the background; from the data.
        name: as in ``list_models(torchvision.models.detection)``; those that need masks or keypoints are not supported.
        score_threshold: detections below are left out.
        settings: other arguments of the builder; no weights are downloaded.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        name: str = "ssdlite320_mobilenet_v3_large",
        score_threshold: Fraction = 0.01,
        max_detections: Count = 100,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(input_shape, max_detections)
        known = [model for model in list_models(detection) if not model.startswith(("mask", "keypoint"))]
        if name not in known:
            raise UserError(
                f"model.name={name}: {suggest(name, known)} Detectors of torchvision are {', '.join(known)}"
            )
        if given := [key for key in settings or {} if key.startswith("weights")]:
            raise UserError(f"model.settings.{given[0]}: it would be downloaded; use init_from for weights of your own")
        chosen = {"weights": None, "weights_backbone": None, "num_classes": num_outputs + 1, **(settings or {})}
        network: Any = get_model_builder(name)(**chosen)
        self.backbone = network.backbone
        network.backbone, network.transform = ReadyFeatures(), ReadyImages()
        owner = getattr(network, "roi_heads", network)
        owner.score_thresh, owner.detections_per_img = score_threshold, max_detections
        self.network = network
        with torch.no_grad():
            levels = self._levels(self.backbone.eval()(torch.zeros(1, 3, *self.image_size)))
        self.backbone.train()
        self._shapes = {key: level.shape[1:] for key, level in levels.items()}

    @staticmethod
    def _levels(features: Any) -> "OrderedDict[str, Tensor]":
        return OrderedDict([("0", features)]) if isinstance(features, Tensor) else features

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of all levels, [B, 1, size]."""
        return torch.cat([level.flatten(1) for level in self._levels(self.backbone(x)).values()], 1)[:, None]

    def losses(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        targets = [
            {"boxes": boxes[:, :4], "labels": boxes[:, 4].long() + 1} for boxes in (one[one[:, 4] >= 0] for one in y)
        ]
        with self._mode(training=True):
            found: dict[str, Tensor] = self.network(self._prepare(outputs), targets)
        return {name.removeprefix("loss_"): loss for name, loss in found.items()}

    @torch.no_grad()
    def detect(self, outputs: Tensor) -> Tensor:
        with self._mode(training=False):
            found = self.network(self._prepare(outputs))
        return self.pad([{**one, "labels": one["labels"] - 1} for one in found])

    def _prepare(self, outputs: Tensor) -> list[Tensor]:
        """Hand over the features; the images, of which only the size is still read, are zeros."""
        parts = outputs[:, 0].split([shape.numel() for shape in self._shapes.values()], 1)
        levels = zip(self._shapes.items(), parts, strict=True)
        self.network.backbone.levels = OrderedDict((key, part.view(-1, *shape)) for (key, shape), part in levels)
        return [outputs.new_zeros(1).expand(3, *self.image_size)] * len(outputs)

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """Ask for losses or boxes; layers such as batch norm stay in their mode. The features are let go afterwards."""
        stages = [self.network.get_submodule(name) for name in _STAGES if not name or hasattr(self.network, name)]
        before = [stage.training for stage in stages]
        try:
            for stage in stages:
                stage.training = training
            yield
        finally:
            for stage, was in zip(stages, before, strict=True):
                stage.training = was
            self.network.backbone.levels = OrderedDict()
