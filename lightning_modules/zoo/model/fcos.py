"""FCOS: a one-stage detector without anchors (Tian et al. 2019). Longer than 200 lines: with its backbone and pyramid."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import (
    Conv2dNormActivation,
    FeaturePyramidNetwork,
    batched_nms,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from lightning_modules.config.bounds import Count, Fraction, Whole, bounded
from lightning_modules.zoo.model.detector import Detector

STRIDES = (8, 16, 32)
_RANGE = 8  # a level finds boxes whose farthest side is up to this many strides away, and more than the level below
_CENTRE = 1.5  # strides: only points this near to the centre of a box, in x and y, are trained to find it
_CANDIDATES = 1000  # points times classes of an image that are compared by their overlap


class ResidualBlock(nn.Module):
    """Two convolutions of 3x3; the input is added, through a convolution of 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = Conv2dNormActivation(inputs, outputs, 3, stride)
        self.second = Conv2dNormActivation(outputs, outputs, 3, activation_layer=None)
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else Conv2dNormActivation(inputs, outputs, 1, stride, activation_layer=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Backbone(nn.Module):
    """Images -> features of strides 8, 16 and 32 with 2, 4 and 8 times `width` channels."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv2dNormActivation(3, width, 3, 2), nn.MaxPool2d(3, 2, 1))
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(inputs, outputs, 2), *(ResidualBlock(outputs, outputs, 1) for _ in range(depth - 1))
            )
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.channels = widths[1:]

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        x, levels = self.stem(x), OrderedDict()
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            levels[str(stride)] = x = stage(x)
        return levels


class Head(nn.Module):
    """Features [B, C, h, w] -> [B, h w, 5 + classes]: distances to left, top, right and bottom in strides, the logit of
    centre-ness, and one of each class. All levels share it.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, prior: float = 0.01) -> None:
        super().__init__()
        self.class_tower, self.box_tower = (
            nn.Sequential(*(self._layer(channels) for _ in range(depth))) for _ in range(2)
        )
        self.classes = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 5, 3, padding=1)
        for layer in (self.classes, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.0)
        assert self.classes.bias is not None
        nn.init.constant_(
            self.classes.bias, -math.log((1 - prior) / prior)
        )  # so that the many empty points start quietly

    @staticmethod
    def _layer(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(8, channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        distances, centre = self.boxes(self.box_tower(x)).split([4, 1], 1)
        distances = F.softplus(distances) * 4  # at first about 2.8 strides
        return torch.cat([distances, centre, self.classes(self.class_tower(x))], 1).flatten(2).transpose(1, 2)


class FCOS(Detector):
    """Each point of three grids, of strides 8, 16 and 32, predicts the distances to the sides of the box that it is in.

    The losses are the focal loss over points and classes, GIoU, and the cross entropy of centre-ness, each divided by the
    number of points in boxes. Of boxes that share a point it finds the smallest. A score is the geometric mean of the
    probability of the class and of centre-ness.

    Args:
        input_shape, num_outputs: image and number of classes; from the data.
        width: channels of the first layer; the backbone has up to 8 times as many, the pyramid 4 times.
        depth: residual blocks of each of three stages.
        head_depth: convolutions of the head before the last.
        score_threshold: detections below are left out.
        nms_threshold: of two detections of a class that overlap more (IoU), the lower one is left out.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        width: Count = 24,
        depth: Count = 1,
        head_depth: Whole = 2,
        score_threshold: Fraction = 0.05,
        nms_threshold: Fraction = 0.6,
        max_detections: Count = 100,
    ) -> None:
        super().__init__(input_shape, max_detections)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        channels = 8 * max(1, width // 2)
        self.backbone = Backbone(width, depth)
        self.pyramid = FeaturePyramidNetwork(self.backbone.channels, channels)
        self.head = Head(channels, num_outputs, head_depth)
        points, strides = grid(self.image_size)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.points: Tensor
        self.strides: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs of `Head` for all points, [B, N, 5 + classes]."""
        levels: dict[str, Tensor] = self.pyramid(self.backbone(x))
        return torch.cat([self.head(level) for level in levels.values()], 1)

    def losses(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        outputs = outputs.float()
        matched = assign_boxes(self.points, self.strides, y)  # [B, N], -1: none
        inside = matched >= 0
        targets = y.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 5))[inside]
        classes = torch.zeros_like(outputs[..., 5:])
        classes[inside] = F.one_hot(targets[:, 4].long(), classes.shape[-1]).to(classes)
        count = inside.sum().clamp(min=1)
        points = self.points.expand(len(y), -1, -1)[inside]
        centre = centreness(points, targets[:, :4])
        found = self.decode(outputs, self.points, self.strides)[0][inside]
        return {
            "class": sigmoid_focal_loss(outputs[..., 5:], classes, reduction="sum") / count,
            "box": generalized_box_iou_loss(found, targets[:, :4], reduction="sum") / count,
            "centre": F.binary_cross_entropy_with_logits(outputs[..., 4][inside], centre, reduction="sum") / count,
        }

    def decode(self, outputs: Tensor, points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
        """Return the corners [B, N, 4] of all boxes in pixels, and the score [B, N, classes] of each class."""
        distances = outputs[..., :4] * strides[:, None]
        corners = torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)
        return corners, (outputs[..., 5:].sigmoid() * outputs[..., 4:5].sigmoid()).sqrt()

    @torch.no_grad()
    def detect(self, outputs: Tensor) -> Tensor:
        boxes, scores = self.decode(outputs.float(), self.points, self.strides)
        height, width = self.image_size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        found = []
        for corners, of_image in zip(boxes, scores, strict=True):
            best, index = of_image.flatten().topk(min(_CANDIDATES, of_image.numel()))
            index = index[best > self.score_threshold]
            best, points, labels = best[: len(index)], index // of_image.shape[1], index % of_image.shape[1]
            kept = batched_nms(corners[points], best, labels, self.nms_threshold)[: self.max_detections]
            found.append({"boxes": corners[points[kept]], "scores": best[kept], "labels": labels[kept]})
        return self.pad(found)


def grid(image_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the points [N, 2] of all levels and their strides [N]."""
    points = [grid_points(image_size, stride) for stride in STRIDES]
    strides = [torch.full_like(level[:, 0], s) for level, s in zip(points, STRIDES, strict=True)]
    return torch.cat(points), torch.cat(strides)


def grid_points(image_size: Sequence[int], stride: int) -> Tensor:
    """Return the (x, y) of the centres of the cells of a level, float [h w, 2]; h and w are rounded up."""
    # ONNX divides integers towards 0, so no -(-side // stride)
    down, across = (torch.arange((side + stride - 1) // stride) * stride + stride / 2 for side in image_size)
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).reshape(-1, 2)


def centreness(points: Tensor, boxes: Tensor) -> Tensor:
    """Return [n]: 1 for a point in the centre of its box, 0 on its sides (Tian et al. 2019, equation 3)."""
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(1).clamp(min=0).sqrt()


def assign_boxes(points: Tensor, strides: Tensor, y: Tensor) -> Tensor:
    """Return the row of y [B, M, 5] that each point [N, 2] is trained to find, int64 [B, N]; -1 for none.

    A point finds a box that it is in, near the centre of, and whose size is that of its level; of several the smallest.
    """
    boxes, level = y[:, None, :, :4], strides[:, None]
    before, after = points[:, None] - boxes[..., :2], boxes[..., 2:] - points[:, None]  # [B, N, M, 2]
    nearest, farthest = torch.cat([before, after], -1).amin(-1), torch.cat([before, after], -1).amax(-1)
    away = (points[:, None] - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(-1)
    lowest = torch.where(level == STRIDES[0], 0.0, level / 2 * _RANGE)
    highest = torch.where(level == STRIDES[-1], torch.inf, level * _RANGE)
    fits = (nearest > 0) & (away < _CENTRE * level) & (farthest > lowest) & (farthest <= highest)
    fits &= y[:, None, :, 4] >= 0
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1).expand_as(fits)
    smallest, row = areas.where(fits, torch.inf).min(-1)
    return row.where(smallest.isfinite(), -1)
