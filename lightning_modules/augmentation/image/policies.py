"""AutoAugment, RandAugment, TrivialAugment, AugMix: operations drawn for each image. Longer than 200 lines: four papers."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor
from torchvision import transforms

from lightning_modules.augmentation.image.image_transform import (
    Fill,
    ImageTransform,
    Interpolation,
    as_float,
    per_image_factor,
    round_to_dtype,
)
from lightning_modules.augmentation.image.policy_operations import (
    AUTO,
    MIX,
    RAND,
    TRIVIAL,
    OperationRanges,
    apply_operations,
    draw_signs,
)
from lightning_modules.augmentation.mixup import sample_beta
from lightning_modules.augmentation.per_sample import uniform
from lightning_modules.config.bounds import Count, Positive, bounded
from lightning_modules.config.errors import UserError, suggest

LEVELS = 31  # 0..30, as in the papers


class RandomPolicy(ImageTransform):
    """Base of policies that draw operations uniformly.

    Args:
        operations: names of the operations to draw from; null uses all.
        interpolation: of geometric operations.
        fill: raw value for pixels outside of the image, or one per channel.
    """

    channels, clips = (1, 3), True
    space: OperationRanges

    @bounded
    def __init__(
        self,
        operations: Sequence[str] | None = None,
        interpolation: Interpolation = "nearest",
        fill: Fill = 0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        for operation in operations or ():
            if operation not in self.space:
                wrong = f"augmentation: {type(self).__name__}.operations: {operation}"
                raise UserError(f"{wrong}: {suggest(operation, self.space)}")
        self.named = {key: value for key, value in self.space.items() if operations is None or key in operations}
        if not self.named:
            known = ", ".join(self.space)
            raise UserError(f"augmentation: {type(self).__name__}.operations is empty; choose from: {known}")
        self.interpolation, self.fill = interpolation, fill

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return operations int64 [n] and their signs [n]."""
        operation = torch.randint(len(self.named), (n,), generator=generator)
        return operation, draw_signs(self.named, operation, generator)

    def operate(self, x: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        """Apply to each image its operation."""
        return apply_operations(x, self.named, operation, level, sign, self.interpolation, self.fill)


class AutoAugment(RandomPolicy):
    """Draws one of 25 pairs of operations for each image; each of the two is applied with its probability.

    Cubuk et al. 2019, "AutoAugment: Learning Augmentation Policies from Data", section 3, tables 7 to 9 and ranges as in
    torchvision. `operation` int64, `chance` and `level` in 0..1 are [25, 2].

    Args:
        policy: found on this data set.
        settings: see `RandomPolicy`.
    """

    space = AUTO

    @bounded
    def __init__(self, policy: Literal["cifar10", "svhn", "imagenet"] = "cifar10", **settings: Any) -> None:
        super().__init__(**settings)
        number = {name.replace("_", ""): i for i, name in enumerate(self.space)}
        pairs = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
        self.operation = torch.tensor([[number[name.lower()] for name, _, _ in pair] for pair in pairs])
        self.chance = torch.tensor([[chance for _, chance, _ in pair] for pair in pairs])
        self.level = torch.tensor([[level or 0 for _, _, level in pair] for pair in pairs]) / 9

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        pair = torch.randint(len(self.operation), (len(x),), generator=generator)
        for half in range(2):
            operation, chance, level = (of[pair, half] for of in (self.operation, self.chance, self.level))
            sign = draw_signs(self.named, operation, generator)
            operation = torch.where(torch.rand(len(x), generator=generator) < chance, operation, -1)
            x = self.operate(x, operation, level, sign)
        return x


class RandAugment(RandomPolicy):
    """Applies `num_ops` random operations in sequence, all at the same strength.

    Cubuk et al. 2020, "RandAugment", algorithm of figure 2; operations and their ranges as in torchvision.

    Args:
        num_ops: operations per image.
        magnitude: strength, 0 to 30.
        settings: see `RandomPolicy`.
    """

    space = RAND

    @bounded
    def __init__(self, num_ops: Count = 2, magnitude: Annotated[float, Ge(0), Lt(LEVELS)] = 9, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_ops, self.magnitude = num_ops, magnitude

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        level = torch.full((len(x),), self.magnitude / (LEVELS - 1))
        for _ in range(self.num_ops):
            operation, sign = self.draw(len(x), generator)
            x = self.operate(x, operation, level, sign)
        return x


class TrivialAugment(RandomPolicy):
    """Applies one random operation per image, at a random strength.

    Müller and Hutter 2021, "TrivialAugment", algorithm 1 with the "wide" ranges of table 7; translations up to 32
    pixels, independent of the image size.
    """

    space = TRIVIAL

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        operation, sign = self.draw(len(x), generator)
        level = torch.randint(LEVELS, (len(x),), generator=generator) / (LEVELS - 1)
        return self.operate(x, operation, level, sign)


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
        settings: see `RandomPolicy`.
    """

    space = MIX

    @bounded
    def __init__(
        self,
        severity: Annotated[float, Ge(0.1), Le(10)] = 3.0,
        width: Count = 3,
        depth: int = -1,
        alpha: Positive = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(**({"interpolation": "bilinear"} | settings))
        if depth != -1 and depth < 1:
            raise UserError(f"augmentation: AugMix.depth={depth} must be at least 1, or -1 for 1 to 3")
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
