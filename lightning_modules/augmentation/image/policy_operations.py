"""Operations of augmentation policies, each applied at once to all images that drew it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.augmentation.image import color
from lightning_modules.augmentation.image.affine import affine_matrix, invert_affine, warp
from lightning_modules.augmentation.image.image_transform import Fill, Interpolation


class StrengthRange(NamedTuple):
    """Range of an operation's strength, from level 0 to level 1."""

    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False  # random sign
    of_side: bool = False  # a fraction of the image's side instead of pixels


OperationRanges = Mapping[str, StrengthRange]


def operation_ranges(
    shear: float, translate: StrengthRange, degrees: float, factor: float, posterize: tuple[int, int], identity: bool
) -> dict[str, StrengthRange]:
    """Return the operations of RandAugment and TrivialAugment, or with ``factor=0`` those of AugMix."""
    found = {"identity": StrengthRange()} if identity else {}
    found |= dict.fromkeys(("shear_x", "shear_y"), StrengthRange(0, shear, True))
    found |= dict.fromkeys(("translate_x", "translate_y"), translate) | {"rotate": StrengthRange(0, degrees, True)}
    if factor:
        found |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), StrengthRange(0, factor, True))
    found |= {"posterize": StrengthRange(*posterize), "solarize": StrengthRange(1, 0)}
    return found | dict.fromkeys(("autocontrast", "equalize"), StrengthRange())


def operation_strengths(named: StrengthRange, level: Tensor, side: int) -> Tensor:
    """Return unsigned strengths float32 [n] at `level` [n] in 0..1, for images with this `side`."""
    strength = named.weakest + (named.strongest - named.weakest) * level
    return strength * side if named.of_side else strength


def _shear(in_x: Tensor, in_y: Tensor, height: int, width: int) -> Tensor:
    """Shear about the upper left corner, as Pillow does."""
    zero = torch.zeros_like(in_x)
    matrix = affine_matrix(zero, zero + 1, *(torch.atan(strength.double()).rad2deg() for strength in (in_x, in_y)))
    corner = torch.tensor([-width / 2, -height / 2], dtype=matrix.dtype)
    return invert_affine(matrix, corner - matrix @ corner)


def _translate(across: Tensor, down: Tensor) -> Tensor:
    zero = torch.zeros_like(across)
    return invert_affine(affine_matrix(zero, zero + 1, zero, zero), torch.stack((across, down), dim=1).trunc())


def _rotate(strength: Tensor, height: int, width: int) -> Tensor:
    zero = torch.zeros_like(strength)
    return invert_affine(affine_matrix(-strength, zero + 1, zero, zero), torch.stack((zero, zero), dim=1))


GEOMETRIC_OPERATIONS: dict[str, Callable[[Tensor, int, int], Tensor]] = {  # strength [n], height, width -> [n, 2, 3]
    "shear_x": lambda strength, height, width: _shear(strength, torch.zeros_like(strength), height, width),
    "shear_y": lambda strength, height, width: _shear(torch.zeros_like(strength), strength, height, width),
    "translate_x": lambda strength, height, width: _translate(strength, torch.zeros_like(strength)),
    "translate_y": lambda strength, height, width: _translate(torch.zeros_like(strength), strength),
    "rotate": _rotate,
}
COLOR_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # images [n, C, H, W], strength [n] -> images
    "brightness": lambda x, strength: color.brightness(x, 1 + strength),
    "color": lambda x, strength: color.saturation(x, 1 + strength),
    "contrast": lambda x, strength: color.contrast(x, 1 + strength),
    "sharpness": lambda x, strength: color.sharpness(x, 1 + strength),
    "posterize": lambda x, strength: color.posterize(x, strength.round()),
    "solarize": color.solarize,
    "autocontrast": lambda x, strength: color.autocontrast(x),
    "equalize": lambda x, strength: color.equalize(x),
    "invert": lambda x, strength: color.invert(x),
}


def draw_signs(named: OperationRanges, operation: Tensor, generator: torch.Generator) -> Tensor:
    """Draw float32 [n]: 1 or -1 for the operations that have a sign, else 1."""
    signed = torch.tensor([at.signed for at in named.values()])[operation]
    return torch.where(signed & (torch.rand(len(operation), generator=generator) < 0.5), -1.0, 1.0)


def apply_operations(
    x: Tensor,
    named: OperationRanges,
    operation: Tensor,
    level: Tensor,
    sign: Tensor,
    interpolation: Interpolation,
    fill: Fill,
) -> Tensor:
    """Apply to each image of x [n, C, H, W] its operation.

    `operation` int64 [n] indexes the keys of `named`, or is -1 for none; `level` in 0..1 and `sign` are float [n], all
    on the CPU. Geometric operations are sampled together; every other operation runs once on its images.
    """
    height, width = x.shape[2:]
    out, moved, maps = x.clone(), [], []
    for i, (name, at) in enumerate(named.items()):
        rows = (operation == i).nonzero().squeeze(1)
        if name == "identity" or not len(rows):
            continue
        side = height if name == "translate_y" else width
        strength = operation_strengths(at, level[rows], side) * sign[rows]
        if name in COLOR_OPERATIONS and len(rows) == len(x):
            return COLOR_OPERATIONS[name](x, strength)
        if name in GEOMETRIC_OPERATIONS:
            moved.append(rows)
            maps.append(GEOMETRIC_OPERATIONS[name](strength, height, width))
        else:
            on_device = rows.to(x.device)
            out[on_device] = COLOR_OPERATIONS[name](x.index_select(0, on_device), strength)
    if moved:
        on_device = torch.cat(moved).to(x.device)
        out[on_device] = warp(x.index_select(0, on_device), torch.cat(maps), interpolation, fill)
    return out


RAND = operation_ranges(0.3, StrengthRange(0, 150 / 331, True, True), 30.0, 0.9, (8, 4), identity=True)
TRIVIAL = operation_ranges(0.99, StrengthRange(0, 32, True), 135.0, 0.99, (8, 2), identity=True)
MIX = operation_ranges(0.3, StrengthRange(0, 1 / 3, True, True), 30.0, 0.0, (4, 0), identity=False)
AUTO = {
    **operation_ranges(0.3, StrengthRange(0, 150 / 331, True, True), 30.0, 0.9, (8, 4), identity=False),
    "invert": StrengthRange(),
}
