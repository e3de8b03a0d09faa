"""Mirrored images."""

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform


class HorizontalFlip(ImageTransform):
    """Mirrors left and right; together with a crop, `CropFlip` is faster.

    Args:
        probability: of changing an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mirrored images."""
        return x.flip(3)


class VerticalFlip(ImageTransform):
    """Mirrors top and bottom.

    Args:
        probability: of changing an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mirrored images."""
        return x.flip(2)
