"""Color jitter and random grayscale."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image import color
from lightning_modules.augmentation.image.image_transform import ImageTransform, check_range
from lightning_modules.augmentation.per_sample import uniform


class ColorJitter(ImageTransform):
    """Changes brightness, contrast, saturation and hue, in this order, each uniform in its range.

    (torchvision also draws the order.) Saturation and hue have no effect on single-channel images.

    Args:
        brightness, contrast, saturation: a number b for the range [max(0, 1 - b), 1 + b], or the range.
        hue: a number h for the range [-h, h], or the range; fractions of a circle within -0.5..0.5.
        probability: of transforming an image.
    """

    channels = (1, 3)

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        self.brightness = _factors("brightness", brightness)
        self.contrast = _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = (-hue, hue) if isinstance(hue, int | float) else (hue[0], hue[1])
        check_range("ColorJitter.hue", *self.hue, -0.5, 0.5)

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


def _factors(name: str, given: float | Sequence[float]) -> tuple[float, float]:
    low, high = (max(0.0, 1 - given), 1 + given) if isinstance(given, int | float) else (given[0], given[1])
    check_range(f"ColorJitter.{name}", low, high, 0)
    return low, high


class Grayscale(ImageTransform):
    """Converts images to gray without changing their number of channels.

    Args:
        probability: of transforming an image.
    """

    channels = (1, 3)

    def __init__(self, probability: float = 0.1) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return color.grayscale(x)
