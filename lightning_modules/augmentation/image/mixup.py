"""Mixup and CutMix: samples and targets are mixed with those of another sample in the batch."""

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import (
    as_float,
    match_memory_format,
    require_images,
    round_to_dtype,
)
from lightning_modules.augmentation.image.random_rectangle import interval_mask
from lightning_modules.augmentation.mixing import Mixing
from lightning_modules.config.errors import UserError
from lightning_modules.task.manifold_mixup import blend


class Mixup(Mixing):
    """Blends pairs of samples of any shape, and their targets by the same weight.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2, with one weight per pair. uint8
    values are rounded to the nearest level.
    """

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch with mixed "x" and soft "y"."""
        x = batch["x"]
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise UserError(f"augmentation: Mixup needs samples of uint8 or float values, but they are {x.dtype}")
        partner, weight = self.draw(len(x), generator)
        other = x.index_select(0, partner.to(x.device))
        mixed = round_to_dtype(blend(as_float(x), as_float(other), weight), x)
        y = self.mix_targets(batch, partner, weight)
        return {**batch, "x": match_memory_format(x, mixed) if x.ndim == 4 else mixed, "y": y}


class CutMix(Mixing):
    """Pastes a rectangle of another image, and mixes the targets by area.

    Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", section
    3.2: centered on any pixel, sides ``sqrt(1 - weight)`` of the image's, clipped at the border.
    """

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch with mixed "x" and soft "y". Raises UserError if the samples are not images."""
        x = batch["x"]
        require_images(self, x)
        partner, weight = self.draw(len(x), generator)
        rows = _cut_interval(1 - weight, x.shape[2], generator)
        columns = _cut_interval(1 - weight, x.shape[3], generator)
        area = rows.sum(1) * columns.sum(1) / (x.shape[2] * x.shape[3])
        cut = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.device)
        mixed = torch.where(cut, x.index_select(0, partner.to(x.device)), x)
        return {**batch, "x": match_memory_format(x, mixed), "y": self.mix_targets(batch, partner, 1 - area)}


def _cut_interval(area: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Draw bool [n, length]: an interval of ``sqrt(area) * length`` pixels with a random center."""
    size = (area.sqrt() * length).long()
    centre = torch.randint(length, (len(area),), generator=generator)
    return interval_mask(centre - size // 2, size, length)
