"""RandAugment and TrivialAugment: operations drawn uniformly for each image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform
from lightning_modules.augmentation.image.policy_operations import (
    RAND,
    TRIVIAL,
    OperationRanges,
    apply_operations,
    draw_signs,
)
from lightning_modules.augmentation.image.warp import check_interpolation
from lightning_modules.config.errors import UserError, suggest

LEVELS = 31  # 0..30, as in the papers


class RandomPolicy(ImageTransform):
    """Base of policies that draw operations uniformly.

    Args:
        operations: names of the operations to draw from; null uses all.
        interpolation: "bilinear" or "nearest", for geometric operations.
        fill: raw value for pixels outside of the image, or one per channel.
        probability: of transforming an image.
    """

    channels = (1, 3)
    space: OperationRanges

    def __init__(
        self,
        operations: Sequence[str] | None = None,
        interpolation: str = "nearest",
        fill: float | Sequence[float] = 0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        name = type(self).__name__
        check_interpolation(name, interpolation)
        for operation in operations or ():
            if operation not in self.space:
                raise UserError(f"augmentation: {name}.operations: {operation}: {suggest(operation, self.space)}")
        self.named = {key: value for key, value in self.space.items() if operations is None or key in operations}
        if not self.named:
            raise UserError(f"augmentation: {name}.operations is empty; choose from: {', '.join(self.space)}")
        self.interpolation, self.fill = interpolation, fill

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return operations int64 [n] and their signs [n]."""
        operation = torch.randint(len(self.named), (n,), generator=generator)
        return operation, draw_signs(self.named, operation, generator)

    def operate(self, x: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        """Apply to each image its operation."""
        return apply_operations(x, self.named, operation, level, sign, self.interpolation, self.fill)


class RandAugment(RandomPolicy):
    """Applies `num_ops` random operations in sequence, all at the same strength.

    Cubuk et al. 2020, "RandAugment", algorithm of figure 2; operations and their ranges as in torchvision.

    Args:
        num_ops: operations per image.
        magnitude: strength, 0 to 30.
        settings: see `Policy`.
    """

    space = RAND

    def __init__(self, num_ops: int = 2, magnitude: float = 9, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        if num_ops < 1:
            raise UserError(f"augmentation: RandAugment.num_ops={num_ops} must be at least 1")
        if not 0 <= magnitude < LEVELS:
            raise UserError(f"augmentation: RandAugment.magnitude={magnitude} must lie in [0, {LEVELS - 1}]")
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
