"""Random resized crop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform
from lightning_modules.augmentation.image.random_rectangle import check_rectangle, draw_places, draw_rectangles
from lightning_modules.augmentation.image.warp import check_interpolation, sample_grid


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
