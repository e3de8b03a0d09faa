"""Mixup and CutMix: samples and targets are mixed with those of another sample in the batch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.augmentation.image.crop_flip import interval_mask
from lightning_modules.augmentation.image.image_transform import (
    as_float,
    match_memory_format,
    require_images,
    round_to_dtype,
)
from lightning_modules.augmentation.per_sample import bernoulli_mask, unsupported
from lightning_modules.config.bounds import Fraction, Positive, bounded
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.task.manifold_mixup import blend


def soft_targets(y: Tensor, num_classes: int | None) -> Tensor:
    """Return classes int64 [B] as float [B, num_classes]; soft or real-valued targets as floats."""
    if y.is_floating_point() or num_classes is None:
        return y.float()
    return F.one_hot(y, num_classes).float()


def sample_beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draw float32 [n] from Beta(alpha, alpha), on the CPU."""
    # torch's Beta takes no generator, so this one seeds NumPy's
    seed = int(torch.randint(2**32, (), generator=generator))
    return torch.from_numpy(np.random.RandomState(seed).beta(alpha, alpha, n).astype(np.float32))


class Mixing(nn.Module):
    """Draws a partner in the batch and a weight for each sample; subclasses mix the two.

    Args:
        alpha: the weight of a sample is drawn from Beta(alpha, alpha).
        probability: of mixing a sample; otherwise its weight is 1.
    """

    @bounded
    def __init__(self, alpha: Positive = 1.0, probability: Fraction = 1.0) -> None:
        super().__init__()
        self.alpha, self.probability = alpha, probability
        self.num_classes: int | None = None

    def prepare(self, data: InMemoryData) -> None:
        """Read the number of classes from the datamodule; None if targets are real-valued."""
        self.num_classes = data.num_classes

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return partners int64 [n], a permutation of the batch, and weights float32 [n]; both on the CPU."""
        partner = torch.randperm(n, generator=generator)
        weight = sample_beta(n, self.alpha, generator)
        return partner, torch.where(bernoulli_mask(n, self.probability, generator), weight, 1.0)

    def mix_targets(self, batch: Mapping[str, Tensor], partner: Tensor, weight: Tensor) -> Tensor:
        """Return soft targets float [B, K] for classes, else blended values."""
        y = soft_targets(batch["y"], self.num_classes)
        return blend(y, y[partner.to(y.device)], weight)


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
            raise unsupported(self, "samples of uint8 or float values", x)
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
