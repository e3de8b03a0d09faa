"""Affine maps of whole batches: matrices for each image, composed, and sampled once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation.image.image_transform import as_float, fill_values, round_to_dtype
from lightning_modules.config.errors import UserError, suggest

INTERPOLATIONS = ("bilinear", "nearest")


def check_interpolation(name: str, interpolation: str) -> None:
    """Raise UserError where it is none that `sample` knows."""
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"augmentation: {name}.interpolation={interpolation}: {suggest(interpolation, INTERPOLATIONS)}")


def affine_matrix(angle: Tensor, scale: Tensor, shear_x: Tensor, shear_y: Tensor) -> Tensor:
    """float64 [n, 2, 2] that maps (x, y) by rotation · scale · shear in y · shear in x; all arguments are [n].

    Angles in degrees, clockwise on the screen, as y points down; shears as angles too, as torchvision has them.
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
    """float64 [n, 2, 3] that undoes ``matrix @ point + shift``: where a pixel of the result comes from."""
    (a, b), (c, d) = matrix[:, 0].unbind(1), matrix[:, 1].unbind(1)
    back = _matrix(d, -b, -c, a) / (a * d - b * c)[:, None, None]
    return torch.cat((back, -back @ shift.double()[:, :, None]), dim=2)


def warp(x: Tensor, back: Tensor, interpolation: str = "bilinear", fill: float | Sequence[float] = 0) -> Tensor:
    """Take each pixel of the result from where `back` says.

    Args:
        x: images [n, C, H, W], uint8 or float.
        back: [n, 2, 3], maps (x, y) of the result to (x, y) of `x`, in pixels from the image's centre; on the CPU.
        interpolation: "bilinear" or "nearest".
        fill: raw value outside of the images, or one for each channel.
    """
    height, width = x.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float64)
    units = (2 * back / sides[:, None]).to(x.device, torch.float32)[..., None, None]  # grid_sample's: half a side
    across, down = (torch.arange(side, device=x.device) - (side - 1) / 2 for side in (width, height))
    grid = torch.empty(len(x), height, width, 2, device=x.device)
    for i in range(2):  # F.affine_grid is slower, and would be done in half precision below autocast
        in_x, in_y, shift = units[:, i].unbind(1)
        torch.addcmul(in_y * down[:, None] + shift, in_x, across, out=grid[..., i])
    return sample_grid(x, grid, interpolation, fill)


def sample_grid(x: Tensor, grid: Tensor, interpolation: str, fill: float | Sequence[float] | None) -> Tensor:
    """`grid` [n, H, W, 2] in the units of `F.grid_sample`; a `fill` of None repeats the border."""
    values = as_float(x)
    grid = grid.to(values.dtype)
    if fill is None:
        return round_to_dtype(F.grid_sample(values, grid, interpolation, "border", align_corners=False), x)
    levels = values.new_tensor(fill_values(fill, x.shape[1])).view(1, -1, 1, 1)  # type: ignore[arg-type]
    filled = bool(levels.any())
    # outside is 0: with the fill as zero point that is the fill, and blends at the border with it
    out = F.grid_sample(values - levels if filled else values, grid, interpolation, "zeros", align_corners=False)
    return round_to_dtype(out.add_(levels) if filled else out, x)
