"""Base of image transforms: checks of the input, conversion to floats and back."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import PerSampleTransform, unsupported
from lightning_modules.config.errors import UserError

Interpolation = Literal["bilinear", "nearest"]
_ROUNDING = 1e-3
Fill = float | Sequence[float]  # raw value, or one per channel


class ImageTransform(PerSampleTransform):
    """Transforms raw images [n, C, H, W]: uint8 in 0..255, or float of any precision in 0..1.

    Shape, dtype and memory format are unchanged. Half precision is computed in float32.

    Args:
    """

    channels: tuple[int, ...] = ()  # allowed numbers of channels; empty: any
    clips = False  # whether floats outside of 0..1 would be clipped

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not images, or have an unsupported number of channels."""
        require_images(self, x)
        if self.channels and x.shape[1] not in self.channels:
            raise unsupported(self, f"images of {' or '.join(map(str, self.channels))} channels", x)
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise unsupported(self, "images of uint8 or float values", x)
        if self.clips and x.is_floating_point() and not bool(((x >= -_ROUNDING) & (x <= 1 + _ROUNDING)).all()):
            raise unsupported(self, "images of floats in 0..1", x, f" and values in {x.min():.3g}..{x.max():.3g}")

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed images [n, C, H, W] in the memory format of `x`."""
        return match_memory_format(x, self.transform_images(x, generator))

    @abstractmethod
    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed images, in any memory format."""


def require_images(transform: nn.Module, x: Tensor) -> None:
    """Raise UserError if the samples `x` are not images [B, C, H, W]."""
    if x.ndim != 4:
        raise unsupported(transform, "images [channels, height, width]", x, "; use augmentation=none")


def white_level(x: Tensor) -> float:
    """Return the value of white: 255 for uint8, 1 for floats."""
    return 255.0 if x.dtype == torch.uint8 else 1.0


def as_float(x: Tensor) -> Tensor:
    """Return the values with at least float32 precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def float_copy(x: Tensor) -> Tensor:
    """Return a float copy for in-place operations, which are faster than allocations."""
    values = as_float(x)
    return values.clone() if values is x else values


def truncate_to_dtype(values: Tensor, like: Tensor) -> Tensor:
    """Clamp float `values` to 0..white and cast, truncating for uint8 (as Pillow and torchvision do for colors)."""
    return values.clamp_(0, white_level(like)).to(like.dtype)


def round_to_dtype(values: Tensor, like: Tensor) -> Tensor:
    """Cast float `values` in 0..white, rounding to the nearest level for uint8."""
    return values.round_().to(torch.uint8) if like.dtype == torch.uint8 else values.to(like.dtype)


def per_image_factor(numbers: Tensor, x: Tensor) -> Tensor:
    """Return numbers [n] as [n, 1, 1, 1], with device and dtype of the float images `x`."""
    return numbers.to(x.device, x.dtype).view(-1, 1, 1, 1)


def match_memory_format(x: Tensor, out: Tensor) -> Tensor:
    """Return `out` in the memory format of the images `x`."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def fill_values(fill: Fill, channels: int) -> list[float]:
    """Return one raw value per channel. Raises UserError if their number does not match."""
    values = [float(fill)] if isinstance(fill, int | float) else [float(value) for value in fill]
    if len(values) not in (1, channels):
        raise UserError(
            f"augmentation: fill={values} has {len(values)} values, but the images have {channels} channels"
        )
    return values * channels if len(values) == 1 else values
