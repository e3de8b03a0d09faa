"""A sequence of named augmentations, so that a config can change or remove one of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Compose(nn.Module):
    """Applies `transforms` in order; in a mapping, a null removes the transform of that name.

    Every transform is called as ``transform(batch, generator)`` with a raw batch and a CPU generator that is seeded
    for each step, and returns a new batch. A transform that depends on the data has a method ``prepare(datamodule)``.
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None] | Sequence[nn.Module | None] | None = None) -> None:
        super().__init__()
        given = transforms.values() if isinstance(transforms, Mapping) else transforms or ()
        self.transforms = nn.ModuleList(transform for transform in given if transform is not None)

    def prepare(self, data: object) -> None:
        """Call ``prepare`` of the transforms that have it, with the set-up datamodule, before the first step."""
        for transform in self.transforms:
            prepare = getattr(transform, "prepare", None)
            if prepare is not None:
                prepare(data)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch
