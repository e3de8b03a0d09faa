"""Color jitter, random grayscale, Gaussian blur and Gaussian noise."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation.image import color
from lightning_modules.augmentation.image.image_transform import (
    ImageTransform,
    as_float,
    per_image_factor,
    round_to_dtype,
    white_level,
)
from lightning_modules.augmentation.per_sample import check_range, to_device_of, uniform
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError


class ColorJitter(ImageTransform):
    """Changes brightness, contrast, saturation and hue, in this order, each uniform in its range.

    (torchvision also draws the order.) Saturation and hue have no effect on single-channel images.

    Args:
        brightness, contrast, saturation: a number b for the range [max(0, 1 - b), 1 + b], or the range.
        hue: a number h for the range [-h, h], or the range; fractions of a circle within -0.5..0.5.
    """

    channels, clips = (1, 3), True

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        self.brightness, self.contrast = self._factors("brightness", brightness), self._factors("contrast", contrast)
        self.saturation = self._factors("saturation", saturation)
        self.hue = (-hue, hue) if isinstance(hue, int | float) else (hue[0], hue[1])
        check_range(self, "hue", self.hue, -0.5, 0.5)

    def _factors(self, name: str, given: float | Sequence[float]) -> tuple[float, float]:
        low, high = (max(0.0, 1 - given), 1 + given) if isinstance(given, int | float) else (given[0], given[1])
        check_range(self, name, (low, high), 0)
        return low, high

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        steps = (
            (color.brightness, self.brightness, 1.0),
            (color.contrast, self.contrast, 1.0),
            (color.saturation, self.saturation, 1.0),
            (color.hue, self.hue, 0.0),
        )
        for operation, (low, high), neutral in steps:
            if (low, high) != (neutral, neutral):
                x = operation(x, uniform(len(x), low, high, generator))
        return x


class Grayscale(ImageTransform):
    """Converts images to gray without changing their number of channels."""

    channels, clips = (1, 3), True

    def __init__(self, probability: float = 0.1) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return color.grayscale(x)


class GaussianBlur(ImageTransform):
    """Gaussian blur with a standard deviation uniform in `sigma`; borders are reflected.

    Args:
        kernel_size: side of the kernel in pixels, odd.
        sigma: (minimum, maximum) standard deviation in pixels.
    """

    @bounded
    def __init__(self, kernel_size: Count = 3, sigma: Sequence[float] = (0.1, 2.0), probability: float = 0.5) -> None:
        super().__init__(probability)
        if kernel_size % 2 == 0:
            raise UserError(f"augmentation: GaussianBlur.kernel_size={kernel_size} must be an odd number")
        check_range(self, "sigma", sigma, 1e-3)
        self.kernel_size, self.sigma = kernel_size, sigma

    def check(self, x: Tensor) -> None:
        """Also raise UserError if the images are smaller than half the kernel."""
        super().check(x)
        if self.kernel_size // 2 >= min(x.shape[2:]):
            raise UserError(
                f"augmentation: GaussianBlur.kernel_size={self.kernel_size} is too large for images of "
                f"{x.shape[2]}x{x.shape[3]} pixels: at most {2 * min(x.shape[2:]) - 1}"
            )

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return gaussian_blur(x, uniform(len(x), self.sigma[0], self.sigma[1], generator), self.kernel_size)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur x [n, C, H, W] with `sigma` [n] in pixels, first vertically, then horizontally."""
    values, half = as_float(x), kernel_size // 2
    distance = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = (-0.5 * (distance / sigma.double()[:, None]) ** 2).exp()
    weights = (kernel / kernel.sum(1, keepdim=True)).to(x.device, values.dtype)[:, :, None, None, None]
    for dim in (2, 3):
        length = x.shape[dim]
        padded = F.pad(values, (0, 0, half, half) if dim == 2 else (half, half, 0, 0), mode="reflect")
        values = padded.narrow(dim, 0, length) * weights[:, 0]
        for shift in range(1, kernel_size):  # faster than a convolution with one kernel per image
            values.addcmul_(padded.narrow(dim, shift, length), weights[:, shift])
    return round_to_dtype(values, x)


class GaussianNoise(ImageTransform):
    """Adds Gaussian noise to each value, with a standard deviation uniform in `std`.

    Args:
        std: (minimum, maximum) standard deviation as a fraction of white, or one number for both.
    """

    clips = True

    def __init__(self, std: float | Sequence[float] = (0.0, 0.1), probability: float = 0.5) -> None:
        super().__init__(probability)
        std = (std, std) if isinstance(std, int | float) else std
        check_range(self, "std", std, 0)
        self.std = std

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        std = uniform(len(x), self.std[0], self.std[1], generator) * white_level(x)
        noise = to_device_of(x, torch.randn(x.shape, generator=generator)).to(as_float(x[:0]).dtype)
        return round_to_dtype(noise.mul_(per_image_factor(std, noise)).add_(x).clamp_(0, white_level(x)), x)
