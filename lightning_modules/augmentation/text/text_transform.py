"""Base of text transforms, operations on padded rows of word ids, and the random choice of a transform."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import PerSampleTransform, to_device_of, unsupported
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.text_data import TextData


class TextTransform(PerSampleTransform):
    """Transforms rows of word ids, int [n, L], padded with 0 at the end; empty rows are unchanged."""

    def prepare(self, data: TextData) -> None:
        """Read from the set-up datamodule what the transform needs; nothing by default."""

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not texts."""
        if x.ndim != 2 or x.is_floating_point() or x.is_complex():
            raise unsupported(self, "texts (rows of word ids)", x)


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


class OneOf(TextTransform):
    """Applies one of `transforms` to each text, drawn uniformly (as for the copies of EDA, Wei and Zou 2019).

    Args:
        transforms: by name; a null removes one.
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None], probability: float = 1.0) -> None:
        super().__init__(probability)
        given = [transform for transform in transforms.values() if transform is not None]
        abstract = TextTransform.transform_samples
        words = [t for t in given if isinstance(t, TextTransform) and type(t).transform_samples is not abstract]
        if not given or len(words) < len(given):
            raise UserError(
                f"augmentation: OneOf.transforms={list(transforms)}: expected word transforms, such as SwapWords"
            )
        self.transforms = nn.ModuleList(given)

    def prepare(self, data: TextData) -> None:
        """Prepare all transforms."""
        for transform in self.transforms:
            assert isinstance(transform, TextTransform)
            transform.prepare(data)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.transforms), (len(x),), generator=generator)
        changed = x.clone()
        for i, transform in enumerate(self.transforms):
            rows = (which == i).nonzero().squeeze(1).to(x.device)
            if len(rows):
                part = {"x": x.index_select(0, rows)}
                changed[rows] = transform(part, generator)["x"]
        return changed
