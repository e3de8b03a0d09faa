"""AugMix: several chains of random operations, mixed with each other and with the image."""

import numpy as np
import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import as_float, per_image_factor, round_to_dtype
from lightning_modules.augmentation.image.policy_operations import MIX
from lightning_modules.augmentation.image.rand_augment import RandomPolicy
from lightning_modules.augmentation.mixing import sample_beta
from lightning_modules.augmentation.per_sample import uniform
from lightning_modules.config.errors import UserError


class AugMix(RandomPolicy):
    """Mixes `width` chains by Dirichlet(alpha) weights, then the mixture with the image by a Beta(alpha, alpha) one.

    Hendrycks et al. 2020, "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", algorithm
    1, without the Jensen-Shannon loss, which needs three views of each image. To be disjoint from the corruptions of
    CIFAR-10-C, no operation changes brightness, contrast, color or sharpness.

    Args:
        severity: the level of each operation is uniform in 0.1 to `severity`, out of 10.
        width: chains per image.
        depth: operations per chain; -1 draws 1, 2 or 3.
        alpha: parameter of both distributions.
        settings: see `Policy`.
    """

    space = MIX

    def __init__(
        self, severity: float = 3.0, width: int = 3, depth: int = -1, alpha: float = 1.0, **settings: object
    ) -> None:
        super().__init__(**({"interpolation": "bilinear"} | settings))  # type: ignore[arg-type]
        if not 0.1 <= severity <= 10:
            raise UserError(f"augmentation: AugMix.severity={severity} must lie in [0.1, 10]")
        if width < 1:
            raise UserError(f"augmentation: AugMix.width={width} must be at least 1")
        if depth != -1 and depth < 1:
            raise UserError(f"augmentation: AugMix.depth={depth} must be at least 1, or -1 for 1 to 3")
        if not alpha > 0:
            raise UserError(f"augmentation: AugMix.alpha={alpha} must be greater than 0")
        self.severity, self.width, self.depth, self.alpha = severity, width, depth, alpha

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)
        weights, kept = sample_dirichlet(n, self.width, self.alpha, generator), sample_beta(n, self.alpha, generator)
        mixture = per_image_factor(kept, as_float(x[:0])) * as_float(x)
        for chain in range(self.width):
            share = per_image_factor((1 - kept) * weights[:, chain], mixture)
            mixture.addcmul_(as_float(self._chain(x, generator)), share)
        return round_to_dtype(mixture, x)

    def _chain(self, x: Tensor, generator: torch.Generator) -> Tensor:
        longest = 3 if self.depth == -1 else self.depth
        depth = torch.randint(1, 4, (len(x),), generator=generator) if self.depth == -1 else torch.tensor(self.depth)
        for done in range(longest):
            operation, sign = self.draw(len(x), generator)
            level = uniform(len(x), 0.1, self.severity, generator) / 10
            x = self.operate(x, torch.where(done < depth, operation, -1), level, sign)
        return x


def sample_dirichlet(n: int, size: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draw float32 [n, size] from Dirichlet(alpha, …, alpha), on the CPU."""
    seed = int(torch.randint(2**32, (), generator=generator))  # torch's Dirichlet takes no generator
    drawn = np.random.RandomState(seed).dirichlet([alpha] * size, n)
    return torch.from_numpy(drawn.astype(np.float32))
