"""Random changes of images together with their boxes, for object detection.

A batch has images x [B, 3, H, W] and boxes y, float [B, M, 5]: x1, y1, x2, y2 in pixels and the class, -1 for rows of
padding. Colors and blur change no box: those of the other modules fit as they are.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.augmentation.image.affine import affine_matrix, invert_affine, warp
from lightning_modules.augmentation.image.image_transform import as_float, require_images, round_to_dtype
from lightning_modules.augmentation.per_sample import bernoulli_mask, check_range, to_device_of, uniform
from lightning_modules.config.bounds import Fraction, bounded
from lightning_modules.config.errors import UserError

_NONE = -1.0  # the class of rows of padding


class BoxTransform(nn.Module):
    """Changes each image of a batch, with its boxes, with a probability, independently of the others."""

    @bounded
    def __init__(self, probability: Fraction = 0.5) -> None:
        super().__init__()
        self.probability = probability

    @abstractmethod
    def transform(self, x: Tensor, y: Tensor, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images `chosen` (int64 [n]) of x, changed, and their boxes [n, any number, 5]."""

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch; the given one is not modified."""
        x, y = batch["x"], batch["y"]
        require_images(self, x)
        if y.ndim != 3 or y.shape[2] != 5:
            raise UserError(
                f"augmentation: {type(self).__name__} needs boxes [B, M, 5], but y has shape {tuple(y.shape)}"
            )
        chosen = bernoulli_mask(len(x), self.probability, generator).nonzero().squeeze(1)
        if not len(chosen):
            return batch
        index = to_device_of(x, chosen)
        changed, boxes = self.transform(x, y, chosen, generator)
        rows = max(y.shape[1], boxes.shape[1])
        x, y = x.clone(), F.pad(y, (0, 0, 0, rows - y.shape[1]), value=_NONE)
        x[index], y[index] = changed, F.pad(boxes, (0, 0, 0, rows - boxes.shape[1]), value=_NONE)
        return {**batch, "x": x, "y": y}


class BoxFlip(BoxTransform):
    """Flips left and right."""

    def transform(self, x: Tensor, y: Tensor, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = to_device_of(x, chosen)
        boxes, width = y[index], x.shape[3]
        flipped = torch.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], -1)
        flipped = torch.cat([flipped, boxes[..., 4:]], -1)
        return x[index].flip(3), flipped.where(boxes[..., 4:] >= 0, _NONE)


class BoxZoom(BoxTransform):
    """Scales images by a factor: above 1 a window of the enlarged image is left, below 1 it lies somewhere on `fill`.

    Args:
        scale: (minimum, maximum) factor.
        min_visible: boxes of which a smaller share of the area is left are removed; the others are clipped.
        fill: raw value outside of the image.
    """

    @bounded
    def __init__(
        self,
        scale: Sequence[float] = (0.75, 1.5),
        min_visible: Fraction = 0.25,
        fill: float = 114,
        probability: Fraction = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range(self, "scale", scale, 1e-3)
        self.scale, self.min_visible, self.fill = scale, min_visible, fill

    def transform(self, x: Tensor, y: Tensor, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n, (height, width) = len(chosen), x.shape[2:]
        scale = uniform(n, self.scale[0], self.scale[1], generator)
        room = (scale - 1).abs() / 2
        shift = torch.stack([uniform(n, -1, 1, generator) * room * side for side in (width, height)], 1)
        index = to_device_of(x, chosen)
        return self.zoom(x[index], y[index], scale, shift)

    def zoom(self, x: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Scale images [n, 3, H, W] about their centres by `scale` [n], and move them by `shift` [n, 2] pixels."""
        none = torch.zeros_like(scale)
        changed = warp(x, invert_affine(affine_matrix(none, scale, none, none), shift), fill=self.fill)
        sides = y.new_tensor([x.shape[3], x.shape[2]]).repeat(2)
        by, moved = scale.to(y)[:, None, None], shift.to(y).repeat(1, 2)[:, None]
        whole = (y[..., :4] - sides / 2) * by + sides / 2 + moved
        return changed, clip_boxes(torch.cat([whole, y[..., 4:]], -1), sides, self.min_visible)


class BoxMosaic(BoxTransform):
    """Puts the image and three others of the batch, each at half its size, into one (Bochkovskiy et al. 2020)."""

    def transform(self, x: Tensor, y: Tensor, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        others = torch.randint(len(x), (len(chosen), 3), generator=generator)
        return self.tile(x, y, torch.cat([chosen[:, None], others], 1))

    @staticmethod
    def tile(x: Tensor, y: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Return images of four `members` (int64 [n, 4]), at the upper left, upper right, lower left and lower right."""
        height, width = x.shape[2:]
        high, wide = height // 2, width // 2
        used, place = to_device_of(x, members).unique(return_inverse=True)
        small = round_to_dtype(F.interpolate(as_float(x[used]), (high, wide), mode="bilinear", antialias=True), x)
        by = y.new_tensor([wide / width, high / height, wide / width, high / height])
        out, boxes = x[used[place[:, 0]]].clone(), []
        for k, (top, left) in enumerate([(0, 0), (0, wide), (high, 0), (high, wide)]):
            out[:, :, top : top + high, left : left + wide] = small[place[:, k]]
            part = y[used[place[:, k]]]
            moved = torch.cat([part[..., :4] * by + y.new_tensor([left, top, left, top]), part[..., 4:]], -1)
            boxes.append(moved.where(part[..., 4:] >= 0, _NONE))
        out[:, :, 2 * high :], out[:, :, :, 2 * wide :] = 0, 0  # of odd sides
        joined = torch.cat(boxes, 1)
        order = (joined[..., 4] < 0).long().argsort(dim=1, stable=True)  # padding last
        most = int((joined[..., 4] >= 0).sum(1).max())
        return out, joined.gather(1, order[..., None].expand_as(joined))[:, : max(most, 1)]


def clip_boxes(y: Tensor, sides: Tensor, min_visible: float) -> Tensor:
    """Clip boxes [n, M, 5] to images of `sides` (W, H, W, H); those of which too little is left become padding."""
    clipped = y[..., :4].clamp(min=0).minimum(sides)
    before, after = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (y[..., :4], clipped))
    kept = (y[..., 4] >= 0) & (after > 0) & (after >= min_visible * before)
    return torch.cat([clipped, y[..., 4:]], -1).where(kept[..., None], _NONE)
