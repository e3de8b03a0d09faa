"""Base of transforms that mix samples: partners, weights and soft targets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
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

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__()
        name = f"augmentation: {type(self).__name__}"
        if not alpha > 0:
            raise UserError(f"{name}.alpha={alpha} must be greater than 0")
        if not 0 <= probability <= 1:
            raise UserError(f"{name}.probability={probability} must lie in [0, 1]")
        self.alpha, self.probability = alpha, probability
        self.num_classes: int | None = None

    def prepare(self, data: Any) -> None:
        """Read the number of classes from the datamodule; None if targets are real-valued."""
        self.num_classes = data.num_classes

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return partners int64 [n], a permutation of the batch, and weights float32 [n]; both on the CPU."""
        partner = torch.randperm(n, generator=generator)
        weight = sample_beta(n, self.alpha, generator)
        mixed = torch.rand(n, generator=generator) < self.probability
        return partner, torch.where(mixed, weight, 1.0)

    def mix_targets(self, batch: Mapping[str, Tensor], partner: Tensor, weight: Tensor) -> Tensor:
        """Return soft targets float [B, K] for classes, else blended values."""
        y = soft_targets(batch["y"], self.num_classes)
        return blend(y, y[partner.to(y.device)], weight)
