"""Preprocessing: modules without trainable parameters that map a raw batch to model input on its device."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.config.signature import locate

CHUNK_SAMPLES = 256  # samples read at once while fitting: bounds memory if images are decoded on the fly


class SampleSource(Protocol):
    """Samples indexed by an int64 tensor: a tensor in memory, or files decoded on access."""

    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size: ...
    def __len__(self) -> int: ...
    def index_select(self, dim: int, index: Tensor, /) -> Tensor: ...


def moments(store: SampleSource, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, population std, minimum and maximum [C] of ``store[indices]``, uint8 scaled to [0, 1].

    Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", eq. 2.1.
    """
    channels, count = store.shape[1], 0
    mean, squares = torch.zeros(2, channels, dtype=torch.float64)
    low, high = torch.full((channels,), torch.inf).double(), torch.full((channels,), -torch.inf).double()
    for index in indices.split(CHUNK_SAMPLES):
        x = store.index_select(0, index)
        x = (x.float() / 255 if x.dtype == torch.uint8 else x.float()).double().transpose(0, 1).reshape(channels, -1)
        total = count + x.shape[1]
        delta = x.mean(1) - mean
        squares += (x - x.mean(1, keepdim=True)).square().sum(1) + delta.square() * count * x.shape[1] / total
        mean += delta * x.shape[1] / total
        low, high = torch.minimum(low, x.amin(1)), torch.maximum(high, x.amax(1))
        count = total
    return mean, (squares / count).sqrt(), low, high


class Affine(nn.Module):
    """``(x - shift) / scale`` per channel of [B, C, …] or feature of [B, F]; uint8 is scaled to [0, 1] first.

    The output has the training dtype (``trainer.precision``), which is that of the buffers. `fitted` buffers were
    computed on the training part and are not part of the fingerprint: they follow from data and split, and their
    last bits may depend on the machine.
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
        if x.dtype == torch.uint8:  # in place: takes a third of the time
            return x.to(scale.dtype).mul_(1 / (255 * scale)).add_(-shift / scale)
        return (x.to(scale.dtype) - shift) / scale


class Standardize(Affine):
    """Scales to zero mean and unit (population) standard deviation; images are first scaled to [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], fitted: bool = False) -> None:
        super().__init__(mean, std, fitted)

    @classmethod
    def fit(cls, store: SampleSource, indices: Tensor) -> "Standardize":
        """Fit mean and std on `indices`; a constant column is only centered."""
        mean, std, low, high = moments(store, indices)
        return cls(mean.tolist(), torch.where(low == high, 1.0, std).tolist(), fitted=True)


class MinMax(Affine):
    """Scales the range of the training part to [0, 1]; a constant column becomes 0."""

    @classmethod
    def fit(cls, store: SampleSource, indices: Tensor) -> "MinMax":
        """Fit the range on `indices`."""
        _, _, low, high = moments(store, indices)
        return cls(low.tolist(), torch.where(low == high, 1.0, high - low).tolist(), fitted=True)


def check_constants(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise UserError unless both are None, or `std` is positive; called before any data are read."""
    if (mean is None) != (std is None):
        raise UserError("data.mean and data.std: give both, or null for both (computed on the training part)")
    if std is not None and min(std, default=0) <= 0:
        raise UserError(f"data.std={list(std)}: every number must be greater than 0")


def standardize(
    store: SampleSource, indices: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Standardize:
    """Standardize with constants, one or one per channel, or with moments of the training part if they are None."""
    if mean is None or std is None:
        return Standardize.fit(store, indices)
    channels = store.shape[1]
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise UserError(
            f"data.mean has {len(mean)} and data.std {len(std)} numbers, but the samples have {channels} "
            "channels: give one number per channel, or null to compute them on the training part"
        )
    return Standardize(mean, std)


def preprocess_spec(module: nn.Module) -> dict[str, object]:
    """Return the plain values from which ``hydra.utils.instantiate`` rebuilds a preprocessing, without its buffers.

    They come from the module's own ``recipe()``, or from attributes named like its constructor's arguments. Raises
    UserError for a module that has neither.
    """
    own = getattr(module, "recipe", None)
    kind = type(module)
    if own is not None:
        return own()
    if kind in (Affine, Standardize, MinMax):
        assert isinstance(module, Affine)
        values = {"shift": module.shift.tolist(), "scale": module.scale.tolist(), "fitted": module.fitted}
        return {"_target_": f"{Affine.__module__}.{Affine.__qualname__}", **values}
    if kind is nn.Identity:
        return {"_target_": "torch.nn.Identity"}
    if kind is nn.Sequential:
        return {"_target_": "torch.nn.Sequential", "_args_": [preprocess_spec(child) for child in module.children()]}
    target = f"{kind.__module__}.{kind.__qualname__}"
    try:
        if kind.__module__ == "__main__" or locate(target) is not kind:
            raise ValueError("its class cannot be imported")
        return {"_target_": target, **dict(_constructor_arguments(module))}
    except (UserError, ValueError) as error:
        raise UserError(
            f"The preprocessing {target} cannot be recorded: {error}. Add a method recipe() that returns the "
            f"constructor's arguments as plain values: {{'_target_': '{target}', …}}"
        ) from error


def _constructor_arguments(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield a module's constructor arguments from its attributes. Raises ValueError if one is missing."""
    init = type(module).__init__
    if init is nn.Module.__init__:
        return
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"its constructor takes {parameter}")
        if hasattr(module, name):
            yield name, _plain_value(name, getattr(module, name))
        elif not (name in ("device", "dtype") and parameter.default is None):  # of torch's own modules
            raise ValueError(f"it has no attribute '{name}' for this constructor argument")


def _plain_value(name: str, value: object) -> object:
    if isinstance(value, nn.Module):
        return preprocess_spec(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain_value(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"its argument '{name}' is a {type(value).__name__}, not a plain value")
