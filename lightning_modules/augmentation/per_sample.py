"""Base of transforms that change each sample of a batch with a probability."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import Fraction, bounded
from lightning_modules.config.errors import UserError


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw float32 [n] in [low, high), on the CPU."""
    return torch.rand(n, generator=generator) * (high - low) + low


def bernoulli_mask(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw bool [n] on the CPU, each true with `probability`."""
    return torch.rand(n, generator=generator) < probability


def to_device_of(x: Tensor, drawn: Tensor) -> Tensor:
    """Move random numbers from the CPU to the device of `x`, asynchronously through pinned memory for a GPU.

    All random numbers come from the run's CPU generator, so that all devices augment a batch equally.
    """
    return drawn.pin_memory().to(x.device, non_blocking=True) if x.is_cuda else drawn.to(x.device)


def check_range(
    owner: object, name: str, limits: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> None:
    """Raise UserError unless `limits` are two finite numbers, ascending from `least` to `most`."""
    if len(limits) != 2 or not least <= limits[0] <= limits[1] <= most or math.isinf(limits[1] - limits[0]):
        bounds = "" if least == -math.inf else f" of at least {least:g}"
        bounds = bounds if most == math.inf else f" in [{least:g}, {most:g}]"
        text = f"augmentation: {type(owner).__name__}.{name}={list(limits)} must be two ascending numbers{bounds}"
        raise UserError(text)


def unsupported(owner: object, needs: str, x: Tensor, hint: str = "") -> UserError:
    """Return the error for samples `x` of another shape or type than the transform `owner` needs."""
    return UserError(
        f"augmentation: {type(owner).__name__} needs {needs}, but a sample has shape {tuple(x.shape[1:])} and type "
        f"{str(x.dtype).removeprefix('torch.')}{hint}"
    )


def require_prepared(owner: object, prepared: object) -> None:
    """Raise UserError if what `prepare` reads from the data is missing."""
    if not prepared:
        raise UserError(f"augmentation: {type(owner).__name__}: call prepare(datamodule) first")


class PerSampleTransform(nn.Module):
    """Changes each sample of ``batch["x"]`` with a probability, independently of the others.

    Subclasses implement `transform_samples`, which is called with the selected samples only.

    Args:
        probability: of changing a sample.
    """

    @bounded
    def __init__(self, probability: Fraction = 1.0) -> None:
        super().__init__()
        self.probability = probability

    @abstractmethod
    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return [n, …] of the same shape and dtype as the samples `x`."""

    def check(self, x: Tensor) -> None:
        """Raise UserError if this transform cannot be applied to samples `x` [B, …]."""

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch; the given one is not modified."""
        x = batch["x"]
        self.check(x)
        drawn = bernoulli_mask(len(x), self.probability, generator)
        count = int(drawn.sum())
        if count == 0:
            return batch
        if count == len(x):
            return {**batch, "x": self.transform_samples(x, generator)}
        index = to_device_of(x, drawn.nonzero().squeeze(1))
        changed = x.clone()  # keeps the memory format
        changed[index] = self.transform_samples(x.index_select(0, index), generator)
        return {**batch, "x": changed}
