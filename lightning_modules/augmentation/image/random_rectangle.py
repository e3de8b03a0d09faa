"""Random rectangles, drawn for each image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import check_range
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
