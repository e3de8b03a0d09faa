"""Random affine transforms: rotation, scale, shear and translation by one matrix per image."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation.image.image_transform import (
    Fill,
    ImageTransform,
    Interpolation,
    as_float,
    fill_values,
    round_to_dtype,
)
from lightning_modules.augmentation.per_sample import check_range, uniform
from lightning_modules.config.bounds import Fraction, NonNegative, bounded

Shear = Annotated[float, Ge(0), Le(89)]


def affine_matrix(angle: Tensor, scale: Tensor, shear_x: Tensor, shear_y: Tensor) -> Tensor:
    """Return float64 [n, 2, 2]: rotation · scale · shear in y · shear in x of (x, y); all arguments are [n].

    Rotation and shears are in degrees, clockwise on the screen (y points down), as in torchvision.
    """
    angle, shear_x, shear_y = (torch.deg2rad(degrees.double()) for degrees in (angle, shear_x, shear_y))
    sine, cosine, one, zero = angle.sin(), angle.cos(), torch.ones_like(angle), torch.zeros_like(angle)
    rotation = _matrix(cosine, -sine, sine, cosine)
    return (
        scale.double()[:, None, None]
        * rotation
        @ _matrix(one, zero, -shear_y.tan(), one)
        @ _matrix(one, -shear_x.tan(), zero, one)
    )


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack((a, b, c, d), dim=1).view(-1, 2, 2)


def invert_affine(matrix: Tensor, shift: Tensor) -> Tensor:
    """Return the inverse of ``matrix @ point + shift`` as float64 [n, 2, 3]."""
    (a, b), (c, d) = matrix[:, 0].unbind(1), matrix[:, 1].unbind(1)
    back = _matrix(d, -b, -c, a) / (a * d - b * c)[:, None, None]
    return torch.cat((back, -back @ shift.double()[:, :, None]), dim=2)


def warp(x: Tensor, back: Tensor, interpolation: Interpolation = "bilinear", fill: Fill = 0) -> Tensor:
    """Warp images by the inverse map `back`.

    Args:
        x: images [n, C, H, W], uint8 or float.
        back: [n, 2, 3], maps (x, y) of the result to (x, y) of `x`, in pixels from the image center; on the CPU.
        interpolation: "bilinear" or "nearest".
        fill: raw value for pixels outside of the image, or one per channel.
    """
    height, width = x.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float64)
    units = (2 * back / sides[:, None]).to(x.device, torch.float32)[..., None, None]  # grid_sample's: half a side
    across, down = (torch.arange(side, device=x.device) - (side - 1) / 2 for side in (width, height))
    grid = torch.empty(len(x), height, width, 2, device=x.device)
    for i in range(2):  # F.affine_grid is slower, and would run in half precision under autocast
        in_x, in_y, shift = units[:, i].unbind(1)
        torch.addcmul(in_y * down[:, None] + shift, in_x, across, out=grid[..., i])
    return sample_grid(x, grid, interpolation, fill)


def sample_grid(x: Tensor, grid: Tensor, interpolation: Interpolation, fill: Fill | None) -> Tensor:
    """Sample x at `grid` [n, H, W, 2], as `F.grid_sample`; with a `fill` of None, the border is replicated."""
    values = as_float(x)
    grid = grid.to(values.dtype)
    if fill is None:
        return round_to_dtype(F.grid_sample(values, grid, interpolation, "border", align_corners=False), x)
    levels = values.new_tensor(fill_values(fill, x.shape[1])).view(1, -1, 1, 1)
    filled = bool(levels.any())
    # grid_sample pads with 0: subtract the fill before and add it afterwards
    out = F.grid_sample(values - levels if filled else values, grid, interpolation, "zeros", align_corners=False)
    return round_to_dtype(out.add_(levels) if filled else out, x)


class Affine(ImageTransform):
    """Rotates, scales, shears and translates images about their center; each parameter is uniform in its range.

    By default all are off. As torchvision's ``RandomAffine``, but translations are not rounded to pixels.

    Args:
        degrees: rotation, from -degrees to degrees.
        translate: maximum translation as fractions of (width, height), or one fraction for both.
        scale: (minimum, maximum) factor.
        shear: maximum shear in degrees in (x, y), or in x only.
        fill: raw value for pixels outside of the image, or one per channel.
    """

    @bounded
    def __init__(
        self,
        degrees: NonNegative = 0.0,
        translate: Fraction | Sequence[Fraction] = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        shear: Shear | Sequence[Shear] = 0.0,
        interpolation: Interpolation = "bilinear",
        fill: Fill = 0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range(self, "scale", scale, 1e-3)
        self.degrees, self.scale = degrees, scale
        self.translate = (translate, translate) if isinstance(translate, int | float) else translate
        self.shear = (shear, 0.0) if isinstance(shear, int | float) else shear
        self.interpolation, self.fill = interpolation, fill

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, (height, width) = len(x), x.shape[2:]

        def within(limit: float) -> Tensor:
            return uniform(n, -limit, limit, generator)

        angle, scale = within(self.degrees), uniform(n, self.scale[0], self.scale[1], generator)
        matrix = affine_matrix(angle, scale, within(self.shear[0]), within(self.shear[1]))
        shift = torch.stack((within(self.translate[0] * width), within(self.translate[1] * height)), dim=1)
        return warp(x, invert_affine(matrix, shift), self.interpolation, self.fill)
