"""Cutout: a square of each image is covered."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class Cutout(nn.Module):
    """Covers one square per image, centred on any of its pixels, so that it may hang over the border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.2. Theirs
    covers images that are normalised already with 0; on raw images that is the mean pixel, which `fill` gives.

    Args:
        size: side of the square in pixels; of an even one the centre is the pixel right of and below the middle.
        fill: raw value, or one for each channel.
    """

    def __init__(self, size: int = 16, fill: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"augmentation.transforms.cutout.size={size} must be at least 1")
        self.size = size
        self.fill = [float(value) for value in fill] if isinstance(fill, Sequence) else [float(fill)]

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Cover part of ``batch["x"]``, uint8 or float [B, C, H, W]; the rest of the batch stays as it is.

        Raises:
            UserError: the samples are no images, or have another number of channels than `fill`.
        """
        x = batch["x"]
        if x.ndim != 4 or len(self.fill) not in (1, x.shape[1]):
            raise UserError(
                f"augmentation.transforms.cutout: images of {len(self.fill)} channels are needed (as many as fill has), but a "
                f"sample has shape {tuple(x.shape[1:])}"
            )
        count, _, height, width = x.shape
        rows = self._covered(torch.randint(height, (count,), generator=generator), height)
        columns = self._covered(torch.randint(width, (count,), generator=generator), width)
        covered = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        fill = torch.tensor(self.fill, device=x.device).to(x.dtype).view(1, -1, 1, 1)
        return {**batch, "x": torch.where(covered, fill, x)}

    def _covered(self, centre: Tensor, length: int) -> Tensor:
        """bool [B, length]: which rows (or columns) the square around `centre` [B] covers."""
        distance = torch.arange(length) - centre[:, None]
        return (distance >= -(self.size // 2)) & (distance < self.size - self.size // 2)
