"""Cutout and random erasing: mask a square or a rectangle of each image."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.image.crop_flip import draw_places, draw_rectangles, interval_mask
from lightning_modules.augmentation.image.image_transform import Fill, ImageTransform, fill_values
from lightning_modules.augmentation.per_sample import check_range, to_device_of, unsupported
from lightning_modules.config.bounds import Count, bounded


class Cutout(nn.Module):
    """Masks one square per image, centered on any of its pixels, so that it may extend beyond the border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.2. They
    mask normalized images with 0; for raw images set `fill` to the mean pixel.

    Args:
        size: side of the square in pixels; for an even size, the center is right of and below the middle.
        fill: raw value, or one per channel.
    """

    @bounded
    def __init__(self, size: Count = 16, fill: Fill = 0.0) -> None:
        super().__init__()
        self.size = size
        self.fill = [float(value) for value in fill] if isinstance(fill, Sequence) else [float(fill)]

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Mask part of ``batch["x"]``, uint8 or float [B, C, H, W]. Raises UserError if the channels do not match `fill`."""
        x = batch["x"]
        if x.ndim != 4 or len(self.fill) not in (1, x.shape[1]):
            raise unsupported(self, f"images of {len(self.fill)} channels (the length of fill)", x)
        count, _, height, width = x.shape
        rows, columns = (
            interval_mask(torch.randint(side, (count,), generator=generator) - self.size // 2, self.size, side)
            for side in (height, width)
        )
        covered = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        fill = torch.tensor(self.fill, device=x.device).to(x.dtype).view(1, -1, 1, 1)
        return {**batch, "x": torch.where(covered, fill, x)}


class RandomErasing(ImageTransform):
    """Masks one rectangle within the image.

    Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1; section 5.2.2 finds noise best. If none of ten
    draws fits, the image is unchanged.

    Args:
        scale: (minimum, maximum) fraction of the area.
        ratio: (minimum, maximum) width / height, log-uniform.
        fill: "noise" (uniform values per pixel), a raw value, or one per channel.
    """

    @bounded
    def __init__(
        self,
        scale: Sequence[float] = (0.02, 0.4),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        fill: Literal["noise"] | Fill = "noise",
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        check_range(self, "scale", scale, 0, 1)
        check_range(self, "ratio", ratio, 1e-3)
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
            cover = torch.tensor(fill_values(self.fill, channels)).to(x.device, x.dtype).view(1, -1, 1, 1)
        return torch.where(covered, cover, x)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform values with the shape and dtype of `x`, on the CPU."""
    if x.dtype != torch.uint8:
        return torch.rand(x.shape, generator=generator).to(x.dtype)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)  # eight uint8 values at once
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: x.numel()].view(x.shape)
