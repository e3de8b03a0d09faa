"""What all transforms of images share: which samples they take, and how values are rounded back."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import PerSampleTransform
from lightning_modules.config.errors import UserError


class ImageTransform(PerSampleTransform):
    """Changes raw images [n, C, H, W]: uint8 in 0..255, or float of any precision in 0..1.

    Shape, dtype and memory format of the batch are kept. Half precision is computed in float32.

    Args:
        probability: of changing an image.
    """

    channels: tuple[int, ...] = ()  # that are allowed; empty: any number

    def check(self, x: Tensor) -> None:
        """Raise UserError where the samples are no images, or have channels that this cannot change."""
        name = f"augmentation: {type(self).__name__}"
        require_images(self, x)
        if self.channels and x.shape[1] not in self.channels:
            allowed = " or ".join(map(str, self.channels))
            raise UserError(f"{name} needs images of {allowed} channels, but a sample has {x.shape[1]}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise UserError(f"{name} needs images of uint8 or float values, but they are {x.dtype}")

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed images [n, C, H, W]."""
        return match_memory_format(x, self.transform_images(x, generator))

    @abstractmethod
    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what `transform_samples` returns, in any memory format."""


def require_images(transform: nn.Module, x: Tensor) -> None:
    """Raise UserError where the samples `x` are no images [B, C, H, W]."""
    if x.ndim != 4:
        raise UserError(
            f"augmentation: {type(transform).__name__} needs images [channels, height, width], but a sample has shape "
            f"{tuple(x.shape[1:])}; use augmentation=none"
        )


def white_level(x: Tensor) -> float:
    """The value of white: 255 of uint8, 1 of floats."""
    return 255.0 if x.dtype == torch.uint8 else 1.0


def as_float(x: Tensor) -> Tensor:
    """The same values with at least the precision of float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def float_copy(x: Tensor) -> Tensor:
    """The same as a copy, which may be changed in place: fresh memory costs more than arithmetic."""
    values = as_float(x)
    return values.clone() if values is x else values


def truncate_to_dtype(values: Tensor, like: Tensor) -> Tensor:
    """Limit float `values` to 0..white and cast, downwards for uint8: how Pillow and torchvision change colours."""
    return values.clamp_(0, white_level(like)).to(like.dtype)


def round_to_dtype(values: Tensor, like: Tensor) -> Tensor:
    """Cast float `values` that lie in 0..white, to the nearest level for uint8."""
    return values.round_().to(torch.uint8) if like.dtype == torch.uint8 else values.to(like.dtype)


def per_image_factor(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers [n] as [n, 1, 1, 1], on the device and with the dtype of the float images `x`."""
    return numbers.to(x.device, x.dtype).view(-1, 1, 1, 1)


def match_memory_format(x: Tensor, out: Tensor) -> Tensor:
    """`out` in the memory format of the images `x`."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def fill_values(fill: float | list[float], channels: int) -> list[float]:
    """One raw value for each channel.

    Raises:
        UserError: there are values for another number of channels.
    """
    values = [float(fill)] if isinstance(fill, int | float) else [float(value) for value in fill]
    if len(values) not in (1, channels):
        raise UserError(
            f"augmentation: fill={values} has {len(values)} values, but the images have {channels} channels"
        )
    return values * channels if len(values) == 1 else values


def check_range(name: str, low: float, high: float, least: float, most: float = float("inf")) -> None:
    """Raise UserError unless ``least <= low <= high <= most``."""
    if not least <= low <= high <= most:
        limits = f"in [{least:g}, {most:g}]" if most < float("inf") else f"of at least {least:g}"
        raise UserError(f"augmentation: {name}=[{low:g}, {high:g}] must be two rising numbers {limits}")
