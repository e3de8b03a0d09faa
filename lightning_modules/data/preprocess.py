"""Preprocessing: parameter-free modules that map a raw batch to what a model reads, on its device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_modules.errors import UserError

CHUNK = 256  # samples read at once while fitting: bounds memory where images are decoded on the fly


class Store(Protocol):
    """Samples that are read by an int64 index tensor: a tensor in memory, or image files."""

    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size: ...
    def __len__(self) -> int: ...
    def index_select(self, dim: int, index: Tensor, /) -> Tensor: ...


@dataclass
class Moments:
    """Mean, population std, lowest and highest value of each channel or feature."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(store: Store, indices: Tensor) -> "Moments":
        """Measure [C] moments of ``store[indices]``, uint8 scaled to [0, 1] (Chan et al. 1979, eq. 2.1)."""
        channels = store.shape[1]
        count = 0
        mean, squares = torch.zeros(2, channels, dtype=torch.float64)
        low, high = torch.full((channels,), torch.inf).double(), torch.full((channels,), -torch.inf).double()
        for index in indices.split(CHUNK):
            x = _floats(store.index_select(0, index)).double().transpose(0, 1).reshape(channels, -1)
            total = count + x.shape[1]
            delta = x.mean(1) - mean
            squares += (x - x.mean(1, keepdim=True)).square().sum(1) + delta.square() * count * x.shape[1] / total
            mean += delta * x.shape[1] / total
            low, high = torch.minimum(low, x.amin(1)), torch.maximum(high, x.amax(1))
            count = total
        return Moments(mean, (squares / count).sqrt(), low, high)


def _floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


class Affine(nn.Module):
    """``(x - shift) / scale`` per channel of [B, C, …] or feature of [B, F]; uint8 is scaled to [0, 1] first.

    What comes out has the buffers' type, which is that of the training (``trainer.precision``).

    `fitted` says that the buffers were measured on the training part. A fingerprint then leaves them out:
    they follow from data and split, and their last bits may depend on the machine.
    """

    def __init__(self, shift: Sequence[float], scale: Sequence[float], fitted: bool = False) -> None:
        super().__init__()
        self.fitted = fitted
        self.register_buffer("shift", torch.tensor(list(shift), dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float32))
        self.shift: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 2)
        shift, scale = self.shift.view(shape), self.scale.view(shape)
        if x.dtype == torch.uint8:  # one multiplication and one addition in place: a third of the naive time
            return x.to(scale.dtype).mul_(1 / (255 * scale)).add_(-shift / scale)
        return (x.to(scale.dtype) - shift) / scale


class Standardize(Affine):
    """Zero mean and unit (population) standard deviation; those of images are of values in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], fitted: bool = False) -> None:
        super().__init__(mean, std, fitted)

    @classmethod
    def fit(cls, store: Store, indices: Tensor) -> "Standardize":
        """Measure mean and std on `indices`; a constant column is only centred."""
        found = Moments.of(store, indices)
        std = torch.where(found.low == found.high, 1.0, found.std)
        return cls(found.mean.tolist(), std.tolist(), fitted=True)


class MinMax(Affine):
    """The training part's lowest value becomes 0, its highest 1; a constant column becomes 0."""

    @classmethod
    def fit(cls, store: Store, indices: Tensor) -> "MinMax":
        """Measure the range on `indices`."""
        found = Moments.of(store, indices)
        width = torch.where(found.low == found.high, 1.0, found.high - found.low)
        return cls(found.low.tolist(), width.tolist(), fitted=True)


def standardize(
    store: Store, indices: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Standardize:
    """Standardise with the config's constants, or with moments of the training part where they are null.

    Raises:
        UserError: the constants are neither one number nor one per channel.
    """
    if mean is None or std is None:
        return Standardize.fit(store, indices)
    channels = store.shape[1]
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise UserError(
            f"data.mean has {len(mean)} and data.std {len(std)} numbers, but the samples have {channels} "
            "channels: give one number per channel, or null to measure them on the training part"
        )
    return Standardize(mean, std)


def constants_problems(mean: Sequence[float] | None, std: Sequence[float] | None) -> list[str]:
    """Say what is wrong with a pair of constants before any data are read."""
    if (mean is None) != (std is None):
        return ["data.mean and data.std: give both, or null for both (measured on the training part)"]
    if std is not None and min(std, default=0) <= 0:
        return [f"data.std={list(std)}: every number must be above 0"]
    return []


def recipe(module: nn.Module) -> dict[str, Any]:
    """Return the plain values from which ``hydra.utils.instantiate`` builds the same preprocessing again."""
    if isinstance(module, Affine):
        values = {"shift": module.shift.tolist(), "scale": module.scale.tolist(), "fitted": module.fitted}
        return {"_target_": f"{Affine.__module__}.{Affine.__qualname__}", **values}
    own: Any = getattr(module, "recipe", None)
    return own() if own else {"_target_": "torch.nn.Identity"}
