"""Noise in ratings, as repeated ratings of a film differ (Cosley et al. 2003, "Is seeing believing?")."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class RatingNoise(nn.Module):
    """Adds Gaussian noise to ``batch["y"]``, float [B], and clamps it to the rating scale.

    Args:
        std: of the noise, in stars.
        scale: lowest and highest rating.
        probability: of changing a rating.
    """

    def __init__(self, std: float = 0.25, scale: Sequence[float] = (1.0, 5.0), probability: float = 1.0) -> None:
        super().__init__()
        name = "augmentation: RatingNoise"
        if not std >= 0:
            raise UserError(f"{name}.std={std} must be at least 0")
        if len(scale) != 2 or not scale[0] < scale[1]:
            raise UserError(
                f"{name}.scale={list(scale)}: expected the lowest and the highest rating, for example [1, 5]"
            )
        if not 0 <= probability <= 1:
            raise UserError(f"{name}.probability={probability} must lie in [0, 1]")
        self.std, self.probability = std, probability
        self.scale = (float(scale[0]), float(scale[1]))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch; the given one is not modified. Raises UserError if the targets are not ratings."""
        y = batch["y"]
        if not y.is_floating_point() or y.ndim != 1:
            raise UserError("augmentation: RatingNoise needs one rating per sample; try data=movielens")
        noise = self.std * torch.randn(len(y), generator=generator)
        changed = (torch.rand(len(y), generator=generator) < self.probability).to(y.device)
        return {**batch, "y": torch.where(changed, (y + noise.to(y)).clamp(*self.scale), y)}
