"""COCO's average precision of detections, through torchmetrics."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.task.metrics import NO_SYNC

NAMES = ("map", "map_50", "map_75", "mar_100", "class_map")


class BoxMetrics(Metric):
    """COCO's metrics of detections [B, K, 6] (x1, y1, x2, y2, score, class) against boxes [B, M, 5] (…, class).

    Rows of class -1 are padding. ``map`` is the mean over classes and IoUs from 0.5 to 0.95, ``map_50`` and ``map_75`` over
    classes at one IoU, ``mar_100`` the recall with 100 detections an image, ``class_map`` the ``map`` of each class. NaN is
    what is not defined, for want of boxes.
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], num_classes: int) -> None:
        super().__init__(**NO_SYNC)
        for name in names:
            if name not in NAMES:
                raise UserError(f"task.metrics: unknown metric '{name}' for detection; {suggest(name, NAMES)}")
        if find_spec("faster_coco_eval") is None:
            raise UserError("task=detection needs faster-coco-eval: pip install -e '.[detection]'")
        from torchmetrics.detection import MeanAveragePrecision

        self.names, self.num_classes = tuple(names), num_classes
        with warnings.catch_warnings(action="ignore"):
            self.coco: Any = MeanAveragePrecision(
                backend="faster_coco_eval",
                class_metrics="class_map" in self.names,
                iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),  # COCO's; torchmetrics' own are rounded to float32
                rec_thresholds=np.linspace(0, 1, 101).tolist(),
                sync_on_compute=False,
            )
        self.coco.warn_on_many_detections = False

    def update(self, detections: Tensor, boxes: Tensor) -> None:
        """Add images."""
        found = [one[one[:, 5] >= 0] for one in detections.cpu()]
        truth = [one[one[:, 4] >= 0] for one in boxes.cpu()]
        self.coco.update(
            [{"boxes": one[:, :4], "scores": one[:, 4], "labels": one[:, 5].long()} for one in found],
            [{"boxes": one[:, :4], "labels": one[:, 4].long()} for one in truth],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name; ``class_map`` has a value for each class."""
        values = self.coco.compute()
        if "class_map" in self.names:
            by_class = torch.full((self.num_classes,), torch.nan)
            by_class[values["classes"].reshape(-1).long()] = values["map_per_class"].reshape(-1).float()
            values["class_map"] = by_class
        return {name: values[name].where(values[name] >= 0, torch.nan) for name in self.names}

    def reset(self) -> None:
        super().reset()
        self.coco.reset()
