"""Base of text transforms, and operations on padded rows of word ids."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, to_device_of
from lightning_modules.config.errors import UserError


class TextTransform(PerSampleTransform):
    """Transforms rows of word ids, int [n, L], padded with 0 at the end; empty rows are unchanged."""

    def prepare(self, data: Any) -> None:
        """Read from the set-up datamodule what the transform needs; nothing by default."""

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not texts."""
        if x.ndim != 2 or x.is_floating_point() or x.is_complex():
            raise UserError(
                f"augmentation: {type(self).__name__} needs texts (rows of word ids), not samples of shape "
                f"{tuple(x.shape[1:])} and type {str(x.dtype).removeprefix('torch.')}"
            )


def check_share(transform: object, key: str, value: float) -> None:
    """Raise UserError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"augmentation: {type(transform).__name__}.{key}={value} must lie in [0, 1]")


def row_lengths(x: Tensor) -> Tensor:
    """Return int64 [n]: the number of words in each row."""
    return (x != 0).sum(1)


def num_words(lengths: Tensor, share: float) -> Tensor:
    """Return int64 [n]: the fraction `share` of the words, rounded, at least one unless the row is empty."""
    return (share * lengths).round().long().clamp(min=1).minimum(lengths)


def shuffle_positions(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Return int64 [n, L]: the `allowed` (bool [n, L]) positions of each row in random order, then the others."""
    keys = to_device_of(allowed, torch.rand(allowed.shape, generator=generator))
    return keys.masked_fill_(~allowed, 2.0).argsort(dim=1)


def sample_positions(allowed: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Draw bool [n, L]: `count` (int64 [n]) of the allowed positions of each row, or all if there are fewer."""
    order = shuffle_positions(allowed, generator)
    taken = torch.arange(allowed.shape[1], device=allowed.device) < count[:, None]
    return torch.zeros_like(allowed).scatter_(1, order, taken) & allowed


def compact(x: Tensor, kept: Tensor) -> Tensor:
    """Return the `kept` (bool [n, L]) words of each row in order, then padding."""
    width = x.shape[1]
    target = torch.where(kept, kept.cumsum(1) - 1, width)
    return x.new_zeros(len(x), width + 1).scatter_(1, target, x)[:, :width]
