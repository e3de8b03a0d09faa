"""Random rectangles, and random resized crops."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.affine import check_interpolation, sample_grid
from lightning_modules.augmentation.image.image_transform import ImageTransform, check_range
from lightning_modules.augmentation.per_sample import uniform

TRIES = 10  # as in torchvision


def check_rectangle(name: str, scale: Sequence[float], ratio: Sequence[float]) -> None:
    """Raise UserError if `scale` or `ratio` is not a valid range."""
    check_range(f"{name}.scale", scale[0], scale[1], 0, 1)
    check_range(f"{name}.ratio", ratio[0], ratio[1], 1e-3)


def draw_rectangles(
    n: int, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return heights and widths, int64 [n], and bool [n]: whether one of ten draws fits into the image.

    The area is uniform in `scale` (fractions of the image), width / height log-uniform in `ratio`. Sizes that do not
    fit are 0. All tries are always drawn, so that the generator advances equally.
    """
    area = uniform(n * TRIES, scale[0], scale[1], generator).view(n, TRIES) * height * width
    shape = uniform(n * TRIES, math.log(ratio[0]), math.log(ratio[1]), generator).view(n, TRIES).exp()
    wide, tall = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.byte().argmax(1, keepdim=True)
    found = fits.any(1)
    return tall.gather(1, first)[:, 0] * found, wide.gather(1, first)[:, 0] * found, found


def draw_places(room: Tensor, generator: torch.Generator) -> Tensor:
    """Draw int64 [n], uniform in 0..room for each of `room`, int64 [n]."""
    return (torch.rand(len(room), generator=generator) * (room + 1)).long().minimum(room)


def interval_mask(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Return bool [n, length]: which rows (or columns) are in ``start .. start + size``, both [n]."""
    places = torch.arange(length)
    return (places >= start[:, None]) & (places < (start + size)[:, None])


class RandomResizedCrop(ImageTransform):
    """Crops a rectangle of random area and aspect ratio and resizes it to the image size.

    Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: 8 % to 100 % of the area, sides from 3:4 to
    4:3. If none of ten draws fits, the largest center crop within `ratio` is used, as in torchvision.

    Args:
        scale: (minimum, maximum) fraction of the area.
        ratio: (minimum, maximum) width / height.
        interpolation: "bilinear" or "nearest".
        probability: of transforming an image.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        check_rectangle("RandomResizedCrop", scale, ratio)
        check_interpolation("RandomResizedCrop", interpolation)
        self.scale, self.ratio, self.interpolation = scale, ratio, interpolation

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        tall, wide, found = draw_rectangles(len(x), height, width, self.scale, self.ratio, generator)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        tall = torch.where(found, tall, max(1, min(height, round(width / ratio))))
        wide = torch.where(found, wide, max(1, min(width, round(height * ratio))))
        top, left = draw_places(height - tall, generator), draw_places(width - wide, generator)
        top = torch.where(found, top, (height - tall) // 2)
        left = torch.where(found, left, (width - wide) // 2)
        return resized_crop(x, top, left, tall, wide, self.interpolation)


def resized_crop(
    x: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, interpolation: str = "bilinear"
) -> Tensor:
    """Crop `tall` x `wide` pixels at (`top`, `left`), all int64 [n], of x [n, C, H, W], resized to H x W."""
    height, width = x.shape[2:]
    grid = torch.empty(len(x), height, width, 2, device=x.device)
    grid[..., 0] = _sources(left, wide, width, interpolation).to(x.device, torch.float32)[:, None, :]
    grid[..., 1] = _sources(top, tall, height, interpolation).to(x.device, torch.float32)[:, :, None]
    return sample_grid(x, grid, interpolation, fill=None)


def _sources(start: Tensor, size: Tensor, length: int, interpolation: str) -> Tensor:
    """Return float64 [n, length]: source coordinates of the result's pixels, in units of `F.grid_sample`."""
    first, size = start[:, None].double(), size[:, None].double()
    if interpolation == "nearest":  # the source pixel that contains the left edge of the result's pixel
        at = first + (torch.arange(length, dtype=torch.float64) * size / length).floor()
    else:  # no interpolation with pixels outside of the crop
        at = ((torch.arange(length, dtype=torch.float64) + 0.5) * size / length - 0.5).clamp(min=0)
        at = first + at.minimum(size - 1)
    return (2 * at + 1) / length - 1
