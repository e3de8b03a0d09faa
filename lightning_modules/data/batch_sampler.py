"""Batch sampler: which samples form which batch on which rank, as a function of (seed, epoch)."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Order = Literal["shuffled", "fixed", "sequential", "balanced"]


class BatchSampler(Sampler[Tensor]):
    """Yields the sample indices of each item (`chunk` batches) as an int64 tensor.

    `order` is "shuffled" (a new permutation each epoch), "fixed" (one permutation for all epochs), "sequential" or "balanced":
    each epoch draws as many samples with replacement, of every class of `labels` equally many on average.
    Rank r takes ``[r::world_size]`` of the ordered indices, so that the ranks' batches of step t together are the batch
    that one process with ``world_size * batch_size`` would see. All ranks get equally many samples: the first indices
    are repeated at the end, or with `drop_last`, samples that do not fill a batch on every rank are dropped.
    `drop_last` counts batches, not chunks. `drop_single` drops a last batch of a single sample on every rank.

    The permutation comes from NumPy's RandomState, whose stream is stable across NumPy versions, and not from a
    global generator: a resumed epoch has the same order.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        order: Order = "shuffled",
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        chunk: int = 1,
        drop_single: bool = False,
        labels: Tensor | None = None,
    ) -> None:
        self.labels = labels
        self.indices, self.batch_size, self.order, self.seed = indices, batch_size, order, seed
        self.drop_last, self.drop_single = drop_last, drop_single
        self.rank, self.world_size = rank, world_size
        self.chunk = chunk
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; called by Lightning before each epoch."""
        self.epoch = epoch

    @property
    def num_samples(self) -> int:
        """Samples per rank and epoch."""
        if self.drop_last:
            return len(self.indices) // (self.batch_size * self.world_size) * self.batch_size
        size = -(-len(self.indices) // self.world_size)
        return size - self.drop_single if size % self.batch_size == 1 else size

    @property
    def num_dropped(self) -> int:
        """Samples per epoch that `drop_single` drops on all ranks together."""
        kept = self.num_samples * self.world_size
        return max(0, len(self.indices) - kept) if self.drop_single and not self.drop_last else 0

    def samples_in(self, first: int, end: int) -> int:
        """Return the samples per rank in batches `first` to `end` - 1."""
        return min(end * self.batch_size, self.num_samples) - first * self.batch_size

    def __len__(self) -> int:
        return -(-self.num_samples // (self.batch_size * self.chunk))

    def __iter__(self) -> Iterator[Tensor]:
        # a generator reads the epoch at the first batch: a resumed Lightning loop creates the iterator before it calls
        # `set_epoch`
        if len(self) == 0:
            return
        ordered = self._ordered()
        total = self.num_samples * self.world_size
        if total > len(ordered):
            ordered = ordered.repeat(-(-total // len(ordered)))
        mine = ordered[:total][self.rank :: self.world_size].contiguous()
        yield from mine.split(self.batch_size * self.chunk)

    def _ordered(self) -> Tensor:
        if self.order == "sequential":
            return self.indices
        if self.order == "balanced" and self.labels is not None:
            _, places, counts = self.labels.unique(return_inverse=True, return_counts=True)
            weights = (1 / counts.double())[places].numpy() / len(counts)
            drawn = np.random.RandomState([self.seed, self.epoch]).choice(len(weights), len(weights), p=weights)
            return self.indices[torch.from_numpy(drawn)]
        stream = [self.seed, self.epoch] if self.order == "shuffled" else [self.seed]
        return self.indices[torch.from_numpy(np.random.RandomState(stream).permutation(len(self.indices)))]
