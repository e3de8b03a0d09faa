"""MovieLens 100K for sequential recommendation: a user's history and the next item."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.zoo.data.interaction_splits import TEST, VAL, interaction_matrix
from lightning_modules.zoo.data.movielens import MovieLensImplicit

PADDING = 0


class MovieLensSequence(MovieLensImplicit):
    """int64 [length], the user's earlier items as item + 1, the latest last, left-padded with 0.

    y is float32 [2], (item, user): the next item and its user, both numbered from 0. Every interaction but a user's
    first is a sample. Ratings with equal time stamps are sorted by item. A history contains all earlier items, whatever
    part they are in.

    Args:
        length: maximum length of a history; older items are dropped.
        others: as in `MovieLensImplicit`.
    """

    @bounded
    def __init__(self, *, length: Count = 50, **settings: Any) -> None:
        self.length = length
        super().__init__(**settings)

    def setup(self, stage: str | None = None) -> None:
        """Set up as usual; a model has one output per item."""
        super().setup(stage)
        self.num_targets = self.num_items

    def build_dataset(self, pairs: Tensor, ratings: Tensor, content: str) -> RawDataset:
        self.pairs = pairs
        x, targets = build_histories(pairs, self.length)
        y, parts = pairs[targets].flip(1).float(), self.parts[targets]
        pool = parts != TEST
        val = (parts[pool] == VAL).nonzero().squeeze(1)
        return RawDataset(x[pool], y[pool], test=(x[~pool], y[~pool]), val=val, content=content)

    def known(self, part: str) -> Tensor:
        later = {"train": (VAL, TEST), "val": (VAL, TEST), "test": (TEST,)}[part]
        before = ~torch.isin(self.parts, torch.tensor(later))
        return interaction_matrix(self.pairs[before], self.num_users, self.num_items)

    def relevant(self, part: str) -> Tensor:
        _, y = self.arrays.test if part == "test" and self.arrays.test else (None, self.arrays.y)
        return interaction_matrix(y[self.splits[part]].flip(1).long(), self.num_users, self.num_items)

    def sample_text(self, x: Tensor) -> str:
        """Return the history's films by the ids in the file; masked ones as ``[mask]``."""
        items = [i - 1 for i in x.tolist() if i != PADDING]
        return " ".join(str(self.item_ids[i]) if i < self.num_items else "[mask]" for i in items)


def build_histories(pairs: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the history int64 [M, length] of each interaction but a user's first, and the interactions' rows [M]."""
    user = pairs[:, 0]
    rows = torch.arange(1, len(pairs))[user[1:] == user[:-1]]
    places = rows[:, None] - length + torch.arange(length)
    inside = places.clamp(min=0)
    same = (user[inside] == user[rows][:, None]) & (places >= 0)
    return torch.where(same, pairs[inside, 1] + 1, PADDING), rows
