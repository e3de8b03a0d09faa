"""Random flips, crops of a padded image, random rectangles and resized crops."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.image.affine import sample_grid
from lightning_modules.augmentation.image.image_transform import (
    ImageTransform,
    Interpolation,
    match_memory_format,
    require_images,
)
from lightning_modules.augmentation.per_sample import bernoulli_mask, check_range, to_device_of, uniform
from lightning_modules.config.bounds import Fraction, Whole, bounded

TRIES = 10  # as in torchvision


class HorizontalFlip(ImageTransform):
    """Flips left and right; combined with a crop, `CropFlip` is faster."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(3)


class VerticalFlip(ImageTransform):
    """Flips top and bottom."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(2)


class CropFlip(nn.Module):
    """Pads each image, crops a window of the original size at random, and flips it with a probability.

    The usual augmentation of small images (He et al. 2016, section 4.2: 4 pixels on 32x32).

    Args:
        padding: pixels added on each side; the window moves by up to that many in each direction.
        flip_probability: probability of a horizontal flip.
        fill: raw value of the added pixels.
    """

    @bounded
    def __init__(self, padding: Whole = 4, flip_probability: Fraction = 0.5, fill: float = 0) -> None:
        super().__init__()
        self.padding, self.flip_probability, self.fill = padding, flip_probability, fill

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Augment ``batch["x"]``, uint8 or float [B, C, H, W]."""
        x = batch["x"]
        require_images(self, x)
        moves = torch.randint(2 * self.padding + 1, (2, len(x)), generator=generator)
        flips = bernoulli_mask(len(x), self.flip_probability, generator)
        return {**batch, "x": match_memory_format(x, crop_flip(x, moves[0], moves[1], flips, self.padding, self.fill))}


def crop_flip(x: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, fill: float = 0) -> Tensor:
    """Crop ``[H, W]`` at (`top`, `left`) of the padded images x [B, C, H, W], then flip those with `flip`.

    `top`, `left` (0..2*padding) and `flip` (bool) are [B], on the CPU. All padded (and flipped) images are in one
    buffer in which every output row is W consecutive values: copying rows is several times faster than gathering
    pixels. A window of a flipped image starts at ``2*padding - left``.
    """
    count, channels, height, width = x.shape
    order = flip.long().argsort(stable=True)  # images to flip come last, so that one copy flips them all
    straight = count - int(flip.sum())
    sorted_x = x.index_select(0, to_device_of(x, order))
    tall, wide = height + 2 * padding, width + 2 * padding
    buffer = x.new_full((count, channels, tall, wide), fill)
    inner = buffer[..., padding : padding + height, padding : padding + width]
    inner[:straight] = sorted_x[:straight]
    inner[straight:] = sorted_x[straight:].flip(3)
    left = torch.where(flip, 2 * padding - left, left)
    starts = (order.argsort() * channels * tall + top) * wide + left
    rows = (torch.arange(channels, device=x.device)[:, None] * tall + torch.arange(height, device=x.device)) * wide
    starts = to_device_of(x, starts)[:, None, None] + rows
    return buffer.flatten().unfold(0, width, 1).index_select(0, starts.flatten()).view(x.shape)


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


def interval_mask(start: Tensor, size: Tensor | int, length: int) -> Tensor:
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
    """

    @bounded
    def __init__(
        self,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range(self, "scale", scale, 0, 1)
        check_range(self, "ratio", ratio, 1e-3)
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
    x: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Crop `tall` x `wide` pixels at (`top`, `left`), all int64 [n], of x [n, C, H, W], resized to H x W."""
    height, width = x.shape[2:]
    grid = torch.empty(len(x), height, width, 2, device=x.device)
    grid[..., 0] = _sources(left, wide, width, interpolation).to(x.device, torch.float32)[:, None, :]
    grid[..., 1] = _sources(top, tall, height, interpolation).to(x.device, torch.float32)[:, :, None]
    return sample_grid(x, grid, interpolation, fill=None)


def _sources(start: Tensor, size: Tensor, length: int, interpolation: Interpolation) -> Tensor:
    """Return float64 [n, length]: source coordinates of the result's pixels, in units of `F.grid_sample`."""
    first, size = start[:, None].double(), size[:, None].double()
    if interpolation == "nearest":  # the source pixel that contains the left edge of the result's pixel
        at = first + (torch.arange(length, dtype=torch.float64) * size / length).floor()
    else:  # no interpolation with pixels outside of the crop
        at = ((torch.arange(length, dtype=torch.float64) + 0.5) * size / length - 0.5).clamp(min=0)
        at = first + at.minimum(size - 1)
    return (2 * at + 1) / length - 1
