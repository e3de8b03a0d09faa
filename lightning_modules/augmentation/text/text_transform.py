"""What transforms of texts share: lengths, words drawn without replacement, and rows closed up again."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, to_device_of
from lightning_modules.config.errors import UserError


class TextTransform(PerSampleTransform):
    """Changes rows of word ids, int [n, L]; padding (0) stays at their end, and a row without a word stays as it is."""

    def prepare(self, data: Any) -> None:
        """Look up in the set-up datamodule what must be known of the words; most transforms need nothing."""

    def check(self, x: Tensor) -> None:
        """Raise UserError where the samples are no texts."""
        if x.ndim != 2 or x.is_floating_point() or x.is_complex():
            raise UserError(
                f"augmentation: {type(self).__name__} changes texts, rows of word ids, not samples of shape "
                f"{tuple(x.shape[1:])} and type {str(x.dtype).removeprefix('torch.')}"
            )


def check_share(transform: object, key: str, value: float) -> None:
    """Raise UserError unless `value` is a share in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"augmentation: {type(transform).__name__}.{key}={value} must lie in [0, 1]")


def row_lengths(x: Tensor) -> Tensor:
    """int64 [n]: the words of each row."""
    return (x != 0).sum(1)


def num_words(lengths: Tensor, share: float) -> Tensor:
    """int64 [n]: that share of the words, rounded, but at least one where there is a word."""
    return (share * lengths).round().long().clamp(min=1).minimum(lengths)


def shuffle_positions(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """int64 [n, L]: the places of each row that are `allowed` (bool [n, L]) in random order, then the others."""
    keys = to_device_of(allowed, torch.rand(allowed.shape, generator=generator))
    return keys.masked_fill_(~allowed, 2.0).argsort(dim=1)


def sample_positions(allowed: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """bool [n, L]: `count` (int64 [n]) of the allowed places of each row, or all where there are fewer."""
    order = shuffle_positions(allowed, generator)
    taken = torch.arange(allowed.shape[1], device=allowed.device) < count[:, None]
    return torch.zeros_like(allowed).scatter_(1, order, taken) & allowed


def compact(x: Tensor, kept: Tensor) -> Tensor:
    """The words of each row that are `kept` (bool [n, L]) in their order, then padding."""
    width = x.shape[1]
    target = torch.where(kept, kept.cumsum(1) - 1, width)
    return x.new_zeros(len(x), width + 1).scatter_(1, target, x)[:, :width]
