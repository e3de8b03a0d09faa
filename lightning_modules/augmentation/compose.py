"""A sequence of augmentations that the config names, so that one of them can be changed or left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Compose(nn.Module):
    """Applies `transforms` in order; as a mapping their names are for overriding, and a null leaves one out.

    Every transform is called as ``transform(batch, generator)`` with a raw batch (see the data room) and a
    CPU generator that the run seeds for each step, and returns a new batch. One that must know the data has a
    method ``prepare(datamodule)``.
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None] | Sequence[nn.Module | None] | None = None) -> None:
        super().__init__()
        given = transforms.values() if isinstance(transforms, Mapping) else transforms or ()
        self.transforms = nn.ModuleList(transform for transform in given if transform is not None)

    def prepare(self, data: Any) -> None:
        """Show the set-up datamodule to those transforms that want to see it, before the first step."""
        for transform in self.transforms:
            prepare: Any = getattr(transform, "prepare", None)
            if prepare is not None:
                prepare(data)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch
