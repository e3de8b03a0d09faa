"""Random horizontal and vertical flips."""

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform


class HorizontalFlip(ImageTransform):
    """Flips left and right; combined with a crop, `CropFlip` is faster.

    Args:
        probability: of transforming an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(3)


class VerticalFlip(ImageTransform):
    """Flips top and bottom.

    Args:
        probability: of transforming an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(2)
