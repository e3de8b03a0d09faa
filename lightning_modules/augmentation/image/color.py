"""Color operations on batches of images x [n, C, H, W], C = 1 or 3, with one strength per image, [n] on the CPU.

Results are truncated to integer levels, as in Pillow and torchvision.
"""

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import (
    as_float,
    float_copy,
    per_image_factor,
    truncate_to_dtype,
    white_level,
)

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601


def luminance(x: Tensor) -> Tensor:
    """Return the luminance [n, 1, H, W], integers for uint8."""
    if x.shape[1] == 1:
        return as_float(x)
    red, green, blue = as_float(x).unbind(1)
    grey = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)
    return grey.floor_() if x.dtype == torch.uint8 else grey


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor * x + (1 - factor) * other``; factors above 1 extrapolate."""
    values = float_copy(x)
    share = per_image_factor(factor, values)
    return truncate_to_dtype(values.mul_(share).add_(other * (1 - share)), x)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale brightness: 0 is black, 1 the image."""
    values = float_copy(x)
    return truncate_to_dtype(values.mul_(per_image_factor(factor, values)), x)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale contrast: 0 is the mean luminance, 1 the image."""
    return _blend(x, luminance(x).mean((1, 2, 3), keepdim=True), factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale saturation: 0 is gray, 1 the image; no effect on single-channel images."""
    return x if x.shape[1] == 1 else _blend(x, luminance(x), factor)


def grayscale(x: Tensor) -> Tensor:
    """Set all channels to the luminance."""
    return x if x.shape[1] == 1 else luminance(x).to(x.dtype).expand_as(x)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue by `shift` of a full circle, -0.5 to 0.5; no effect on single-channel images.

    A channel is ``max - (max - min) * clamp(min(k, 4 - k), 0, 1)`` with ``k = (n + 6 hue) mod 6`` and n = 5, 3, 1
    for red, green, blue (Smith 1978, "Color Gamut Transform Pairs", hexcone model).
    """
    if x.shape[1] == 1:
        return x
    values = as_float(x)
    red, green, blue = values.unbind(1)
    high = torch.maximum(red, green).maximum(blue)  # several times faster than a reduction of three
    spread = high - torch.minimum(red, green).minimum(blue)
    over = spread.clamp(min=1e-12).reciprocal_()
    angle = torch.where(
        high == red,
        (green - blue) * over,
        torch.where(high == green, (blue - red) * over + 2, (red - green) * over + 4),
    )
    angle += 6 * per_image_factor(shift, values).squeeze(1)
    offsets = values.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    turned = (angle.unsqueeze(1) + offsets).remainder_(6)
    turned = torch.minimum(turned, 4 - turned).clamp_(0, 1).mul_(spread.unsqueeze(1)).neg_().add_(high.unsqueeze(1))
    if x.dtype == torch.uint8:
        turned *= 255.999 / 255  # torchvision's conversion from 0..1 to levels
    return truncate_to_dtype(turned, x)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale sharpness: 0 is smoothed by a 3x3 kernel of ones with center 5, 1 the image; borders are unchanged."""
    if min(x.shape[2:]) <= 2:
        return x
    values = as_float(x)
    rows = (values[:, :, :-2] + values[:, :, 1:-1]).add_(values[:, :, 2:])
    middle = values[:, :, 1:-1, 1:-1]
    smooth = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(middle, alpha=4).mul_(1 / 13)
    if x.dtype == torch.uint8:
        smooth.round_()
    share = per_image_factor(factor, values)
    out = float_copy(x)
    out[:, :, 1:-1, 1:-1] = smooth.mul_(1 - share).addcmul_(middle, share)
    return truncate_to_dtype(out, x)


def invert(x: Tensor) -> Tensor:
    """Invert all values."""
    return 255 - x if x.dtype == torch.uint8 else 1 - x


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values of at least ``threshold * white``."""
    level = threshold.double() * white_level(x)
    limit = (level.ceil() if x.dtype == torch.uint8 else level).to(x.device, x.dtype).view(-1, 1, 1, 1)
    if x.dtype == torch.uint8:  # inversion is xor with 255: several times faster than torch.where
        return x ^ (x >= limit).view(torch.uint8).neg_()
    return torch.where(x >= limit, invert(x), x)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (integers 0 to 8) of each value."""
    if x.dtype == torch.uint8:
        mask = 255 - (2 ** (8 - bits.long()) - 1)
        return x & mask.to(x.device, torch.uint8).view(-1, 1, 1, 1)
    values = as_float(x)
    levels = per_image_factor(2.0 ** bits.double(), values)
    return ((values * levels).floor_().clamp_(min=0).minimum(levels - 1) / levels).to(x.dtype)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel to black..white; a constant channel is unchanged."""
    values = as_float(x)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    flat = high == low
    unit = torch.where(flat, 1.0, (high - low) * (1 / white_level(x)))
    return truncate_to_dtype((values - torch.where(flat, 0.0, low)).div_(unit), x)


def equalize(x: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as Pillow does; floats are quantized to 256 levels."""
    levels = (x if x.dtype == torch.uint8 else (as_float(x) * 255.999).to(torch.uint8)).flatten(2).long()
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=x.device)
    counts.scatter_add_(2, levels, torch.ones((), dtype=torch.int32, device=x.device).expand_as(levels))
    highest = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - counts.gather(2, highest)) // 255
    below = counts.cumsum(2, dtype=torch.int32) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.int32, device=x.device))
    table = table.to(torch.uint8) if x.dtype == torch.uint8 else (table / 255).to(x.dtype)
    return table.gather(2, levels).view(x.shape)
