"""Random erasing: masks a rectangle of each image with noise or a value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform, fill_values
from lightning_modules.augmentation.image.random_rectangle import (
    check_rectangle,
    draw_places,
    draw_rectangles,
    interval_mask,
)
from lightning_modules.augmentation.per_sample import to_device_of
from lightning_modules.config.errors import UserError


class RandomErasing(ImageTransform):
    """Masks one rectangle within the image.

    Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1; section 5.2.2 finds noise best. If none of ten
    draws fits, the image is unchanged.

    Args:
        scale: (minimum, maximum) fraction of the area.
        ratio: (minimum, maximum) width / height, log-uniform.
        fill: "noise" (uniform values per pixel), a raw value, or one per channel.
        probability: of masking a part of an image.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.02, 0.4),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        fill: str | float | Sequence[float] = "noise",
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        check_rectangle("RandomErasing", scale, ratio)
        if isinstance(fill, str) and fill != "noise":
            raise UserError(
                f"augmentation: RandomErasing.fill={fill}: expected noise, a number, or one number per channel"
            )
        self.scale, self.ratio, self.fill = scale, ratio, fill

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, channels, height, width = x.shape
        tall, wide, _ = draw_rectangles(n, height, width, self.scale, self.ratio, generator)
        rows = interval_mask(draw_places(height - tall, generator), tall, height)
        columns = interval_mask(draw_places(width - wide, generator), wide, width)
        covered = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        if isinstance(self.fill, str):
            cover = to_device_of(x, _noise(x, generator))
        else:
            cover = torch.tensor(fill_values(self.fill, channels)).to(x.device, x.dtype).view(1, -1, 1, 1)  # type: ignore[arg-type]
        return torch.where(covered, cover, x)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform values with the shape and dtype of `x`, on the CPU."""
    if x.dtype != torch.uint8:
        return torch.rand(x.shape, generator=generator).to(x.dtype)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)  # eight uint8 values at once
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: x.numel()].view(x.shape)
