"""Augmentation of item histories, int64 [B, L], the latest item last, left-padded with 0.

Crop, mask and reorder are those of Xie et al. 2022, "Contrastive Learning for Sequential Recommendation" (CL4SRec), section 3.3.
"""

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, require_prepared, to_device_of, unsupported
from lightning_modules.config.bounds import Fraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData


def check_histories(transform: PerSampleTransform, x: Tensor) -> None:
    """Raise UserError if the samples are not item histories."""
    if x.ndim != 2 or x.is_floating_point():
        raise unsupported(transform, "histories of items, int64 [length]", x, "; try data=movielens_sequence")


class HistoryTransform(PerSampleTransform):
    """Base of transforms that keep, mask, move or drop a fraction ``share`` of a history's items.

    Args:
        share: fraction of the items, in [0, 1].
    """

    @bounded
    def __init__(self, share: Fraction, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.share = share

    def check(self, x: Tensor) -> None:
        check_histories(self, x)

    def window(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw start and length, both int64 [n, 1], of a random window of ``share`` of each history's items.

        At least one item, unless the history is empty.
        """
        counts = (x != 0).sum(1, keepdim=True)
        length = (counts * self.share).long().clamp(min=1).minimum(counts)
        moves = torch.rand(len(x), 1, generator=generator, dtype=torch.float64).to(x.device) * (counts - length + 1)
        return x.shape[1] - counts + moves.long(), length


class HistoryCrop(HistoryTransform):
    """Keeps a random window of `share` of the items."""

    def __init__(self, share: float = 0.6, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        start, length = self.window(x, generator)
        size = x.shape[1]
        places = torch.arange(size, device=x.device) - (size - length)  # position in the window; negative: padding
        return torch.where(places >= 0, x.gather(1, (start + places).clamp(0, size - 1)), 0)


class HistoryReorder(HistoryTransform):
    """Shuffles a random window of `share` of the items; the others are unchanged."""

    def __init__(self, share: float = 0.6, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        start, length = self.window(x, generator)
        places = torch.arange(x.shape[1], device=x.device)
        moved = (places >= start) & (places < start + length)
        draws = to_device_of(x, torch.rand(x.shape, generator=generator))
        # keys of the window stay between those of the other items
        keys = torch.where(moved, start + draws * length, places)
        return x.gather(1, keys.argsort(dim=1, stable=True))


class HistoryMask(HistoryTransform):
    """Replaces each item with probability `share` by the mask number, one above that of the last item."""

    def __init__(self, share: float = 0.3, probability: float = 1.0) -> None:
        super().__init__(share, probability)
        self.mask = 0

    def prepare(self, data: InMemoryData) -> None:
        """Read the mask number from the data. Raises UserError if they are not histories."""
        if (items := getattr(data, "num_items", None)) is None:
            raise UserError(
                f"augmentation: HistoryMask needs histories of items, not {data.name}; try data=movielens_sequence"
            )
        self.mask = int(items) + 1

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        require_prepared(self, self.mask)
        masked = to_device_of(x, torch.rand(x.shape, generator=generator) < self.share)
        return torch.where(masked & (x != 0), self.mask, x)


class HistoryDropout(HistoryTransform):
    """Drops each item with probability `share`; the latest is kept if no other is left."""

    def __init__(self, share: float = 0.2, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        kept = to_device_of(x, torch.rand(x.shape, generator=generator) >= self.share) & (x != 0)
        kept[:, -1] |= ~kept.any(1)
        order = kept.byte().argsort(dim=1, stable=True)  # dropped items come first, as padding
        return torch.where(kept, x, 0).gather(1, order)


class VirtualUsers(PerSampleTransform):
    """Virtual users: replaces the older part of a history by that of another history in the batch.

    The newer part, a fraction of the items uniform in [`share`, 1) and at least one item, is kept, so that the target is
    unchanged. The older part is that of the partner before as many items. A history does not become longer, and repeated
    items are dropped.

    Args:
        share: minimum fraction of a history that is kept.
    """

    @bounded
    def __init__(self, share: Fraction = 0.5, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.share = share

    def check(self, x: Tensor) -> None:
        check_histories(self, x)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        partner = torch.randperm(len(x), generator=generator).to(x.device)
        kept = torch.rand(len(x), 1, generator=generator) * (1 - self.share) + self.share
        return _splice(x, x[partner], kept.to(x.device))


def _splice(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return the newest `share` [B, 1] of the histories `own` after the older items of `other`; both int64 [B, L]."""
    size = own.shape[1]
    counts = (own != 0).sum(1, keepdim=True)
    length = (counts * share).long().clamp(min=1)
    places = torch.arange(size, device=own.device)
    newer = places >= size - length
    first = size - counts  # the result is no longer than the original history
    mixed = torch.where(newer, own, torch.where(places >= first, other, 0))
    twice = (mixed[:, :, None] == torch.where(newer, own, -1)[:, None, :]).any(2) & ~newer
    mixed = torch.where(twice, 0, mixed)
    return mixed.gather(1, (mixed != 0).byte().argsort(dim=1, stable=True))
