"""Cutout: masks a square of each image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class Cutout(nn.Module):
    """Masks one square per image, centered on any of its pixels, so that it may extend beyond the border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.2. They
    mask normalized images with 0; for raw images set `fill` to the mean pixel.

    Args:
        size: side of the square in pixels; for an even size, the center is right of and below the middle.
        fill: raw value, or one per channel.
    """

    def __init__(self, size: int = 16, fill: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"augmentation.transforms.cutout.size={size} must be at least 1")
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
