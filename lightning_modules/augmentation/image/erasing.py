"""Cutout and random erasing: mask a square or a rectangle of each image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.image.image_transform import ImageTransform, fill_values
from lightning_modules.augmentation.image.resized_crop import (
    check_rectangle,
    draw_places,
    draw_rectangles,
    interval_mask,
)
from lightning_modules.augmentation.per_sample import to_device_of
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError


class Cutout(nn.Module):
    """Masks one square per image, centered on any of its pixels, so that it may extend beyond the border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.2. They
    mask normalized images with 0; for raw images set `fill` to the mean pixel.

    Args:
        size: side of the square in pixels; for an even size, the center is right of and below the middle.
        fill: raw value, or one per channel.
    """

    @bounded
    def __init__(self, size: Count = 16, fill: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        self.size = size
        self.fill = [float(value) for value in fill] if isinstance(fill, Sequence) else [float(fill)]

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Mask part of ``batch["x"]``, uint8 or float [B, C, H, W]; the rest of the batch is unchanged.

        Raises:
            UserError: the samples are not images, or their channels do not match `fill`.
        """
        x = batch["x"]
        if x.ndim != 4 or len(self.fill) not in (1, x.shape[1]):
            raise UserError(
                f"augmentation.transforms.cutout: expected images of {len(self.fill)} channels (the length of fill), but a "
                f"sample has shape {tuple(x.shape[1:])}"
            )
        count, _, height, width = x.shape
        rows = self._covered(torch.randint(height, (count,), generator=generator), height)
        columns = self._covered(torch.randint(width, (count,), generator=generator), width)
        covered = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        fill = torch.tensor(self.fill, device=x.device).to(x.dtype).view(1, -1, 1, 1)
        return {**batch, "x": torch.where(covered, fill, x)}

    def _covered(self, centre: Tensor, length: int) -> Tensor:
        """Return bool [B, length]: rows (or columns) covered by the square around `centre` [B]."""
        distance = torch.arange(length) - centre[:, None]
        return (distance >= -(self.size // 2)) & (distance < self.size - self.size // 2)


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
