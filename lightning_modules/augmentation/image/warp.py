"""Affine warping of batches with one matrix per image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation.image.image_transform import as_float, fill_values, round_to_dtype
from lightning_modules.config.errors import UserError, suggest

INTERPOLATIONS = ("bilinear", "nearest")


def check_interpolation(name: str, interpolation: str) -> None:
    """Raise UserError if `interpolation` is not supported."""
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"augmentation: {name}.interpolation={interpolation}: {suggest(interpolation, INTERPOLATIONS)}")


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


def warp(x: Tensor, back: Tensor, interpolation: str = "bilinear", fill: float | Sequence[float] = 0) -> Tensor:
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


def sample_grid(x: Tensor, grid: Tensor, interpolation: str, fill: float | Sequence[float] | None) -> Tensor:
    """Sample x at `grid` [n, H, W, 2], as `F.grid_sample`; with a `fill` of None, the border is replicated."""
    values = as_float(x)
    grid = grid.to(values.dtype)
    if fill is None:
        return round_to_dtype(F.grid_sample(values, grid, interpolation, "border", align_corners=False), x)
    levels = values.new_tensor(fill_values(fill, x.shape[1])).view(1, -1, 1, 1)  # type: ignore[arg-type]
    filled = bool(levels.any())
    # grid_sample pads with 0: subtract the fill before and add it afterwards
    out = F.grid_sample(values - levels if filled else values, grid, interpolation, "zeros", align_corners=False)
    return round_to_dtype(out.add_(levels) if filled else out, x)
