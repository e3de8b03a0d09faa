"""Resampling of positive pairs such that all users are equally frequent."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class UniformUsers(nn.Module):
    """Replaces each pair by a uniformly drawn user and one of the user's training items.

    Without it, users with many interactions are more frequent; LightGCN is trained this way in the library Recommenders.
    ``y`` is that of the drawn interaction.

    Args:
        probability: of replacing a pair.
    """

    def __init__(self, probability: float = 1.0) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise UserError(f"augmentation: UniformUsers.probability={probability} must lie in [0, 1]")
        self.probability = probability
        self._x: Tensor | None = None

    def prepare(self, data: Any) -> None:
        """Sort the training part by user. Raises UserError if the data are not pairs of users and items."""
        if tuple(data.input_shape) != (2,):
            raise UserError(f"augmentation: uniform users need pairs of users and items, not {data.name}")
        x, train = data.arrays.x, data.splits["train"]
        order = train[x[train, 0].argsort(stable=True)]
        self._x, self._y = x[order], data.arrays.y[order]
        _, self._counts = self._x[:, 0].unique_consecutive(return_counts=True)
        self._starts = self._counts.cumsum(0) - self._counts

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch of pairs int64 [B, 2]."""
        if self._x is None:
            raise UserError("augmentation: UniformUsers: call prepare(datamodule) first")
        x, y = batch["x"], batch["y"]
        user = torch.randint(len(self._counts), (len(x),), generator=generator)
        place = (torch.rand(len(x), generator=generator, dtype=torch.float64) * self._counts[user]).long()
        row = self._starts[user] + place
        changed = torch.rand(len(x), generator=generator) < self.probability
        moved = changed.to(x.device)
        return {
            **batch,
            "x": torch.where(moved[:, None], self._x[row].to(x.device), x),
            "y": torch.where(moved, self._y[row].to(y), y),
        }
