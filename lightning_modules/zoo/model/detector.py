"""What a detection network gives: outputs, their losses against boxes, and boxes with scores."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.box_files import NO_BOX


class Detector(nn.Module):
    """Standardized images [B, 3, H, W] -> outputs [B, N, K], from which come both the losses and the detections.

    Args:
        input_shape: of an image; others are not taken.
        max_detections: in an image, those with the highest scores.
    """

    def __init__(self, input_shape: Sequence[int], max_detections: int) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise UserError(f"model: detection needs images [3, height, width], the data give {tuple(input_shape)}")
        self.image_size = (int(input_shape[1]), int(input_shape[2]))
        self.max_detections = max_detections

    @abstractmethod
    def losses(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss, whose sum is trained, for boxes y [B, M, 5]: x1, y1, x2, y2, class (-1: none)."""

    @abstractmethod
    def detect(self, outputs: Tensor) -> Tensor:
        """Return detections [B, max_detections, 6]: x1, y1, x2, y2, score, class, by falling scores.

        Images with fewer are padded by rows of score 0 and class -1.
        """

    def pad(self, found: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return the boxes, scores and labels of each image as `detect` does."""
        rows = []
        for one in found:
            values = torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None].to(one["boxes"])], 1)
            values = values[one["scores"].argsort(descending=True, stable=True)][: self.max_detections]
            padding = (0, 0, 0, self.max_detections - len(values))
            values = F.pad(values, padding)
            values[len(one["scores"]) :, 5] = NO_BOX
            rows.append(values)
        return torch.stack(rows)
