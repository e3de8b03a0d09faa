"""Augmentation of user-item pairs: negative sampling, resampled positives, and noise in ratings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import bernoulli_mask, check_range, require_prepared, unsupported
from lightning_modules.config.bounds import Count, Fraction, NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData

_MAX_REDRAWS = 20  # of rejection sampling; then the rest is drawn one by one


class NegativeSampling(nn.Module):
    """Draws items for each pair of a user and an item, into ``batch["negatives"]``, int64 [B, count].

    An item is drawn with probability proportional to its training interactions to the power of `popularity`; items with
    a training interaction of the user are rejected and drawn again. Held-out items may be drawn.

    Args:
        count: negatives per positive.
        popularity: 0 is uniform over all items, 0.75 as in word2vec (Mikolov et al. 2013); above 0, items without
            training interactions are never drawn.
    """

    @bounded
    def __init__(self, count: Count = 1, popularity: NonNegative = 0.0) -> None:
        super().__init__()
        self.count, self.popularity = count, popularity
        self._met: Tensor | None = None  # bool [users * items]
        self._share: Tensor | None = None  # float64 [items], cumulative probability

    def prepare(self, data: InMemoryData) -> None:
        """Read the training interactions.

        Raises UserError if the data are not pairs of users and items, or no item is left to draw for a user.
        """
        if not hasattr(data, "known") or tuple(data.input_shape) != (2,):
            raise UserError(
                f"augmentation: negative sampling needs pairs of users and items, not {data.name}; try data=movielens_implicit"
            )
        self.set_interactions(data.known("train"))

    def set_interactions(self, met: Tensor) -> None:
        """Set the training interactions, bool [users, items]. Raises UserError if no item is left to draw for a user."""
        counts = met.sum(0).double()
        weights = counts**self.popularity if self.popularity else torch.ones_like(counts)
        if not weights.sum() > 0:
            weights = torch.ones_like(counts)  # no interactions at all
        left = ~met & (weights > 0)
        if not bool(left.any(1).all()):
            user = int((~left.any(1)).nonzero()[0])
            raise UserError(
                f"augmentation: negative sampling: user {user} has interacted with every item; none is left to draw"
            )
        self._met, self._items = met.flatten(), met.shape[1]
        self._share = (weights / weights.sum()).cumsum(0)
        self._weights = weights

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch with negatives for ``batch["x"]``, int64 [B, 2] (user, item).

        Raises UserError if the samples are not pairs.
        """
        x = batch["x"]
        if x.ndim != 2 or x.shape[1] != 2 or x.is_floating_point():
            raise unsupported(self, "pairs (user, item)", x)
        users = x[:, 0].cpu().repeat_interleave(self.count)
        drawn = self._draw(users, generator)
        return {**batch, "negatives": drawn.view(-1, self.count).to(x.device)}

    def _draw(self, users: Tensor, generator: torch.Generator) -> Tensor:
        require_prepared(self, self._met is not None)
        assert self._met is not None
        drawn = self._draw_items(len(users), generator)
        again = torch.arange(len(users))
        for _ in range(_MAX_REDRAWS):
            again = again[self._met[users[again] * self._items + drawn[again]]]
            if not len(again):
                return drawn
            drawn[again] = self._draw_items(len(again), generator)
        for row in again.tolist():  # users with interactions with nearly all items
            left = self._weights * ~self._met.view(-1, self._items)[users[row]]
            drawn[row] = torch.multinomial(left, 1, generator=generator)
        return drawn

    def _draw_items(self, count: int, generator: torch.Generator) -> Tensor:
        if not self.popularity:
            return torch.randint(self._items, (count,), generator=generator)
        assert self._share is not None
        wanted = torch.rand(count, generator=generator, dtype=torch.float64) * self._share[-1]
        return torch.searchsorted(self._share, wanted, right=True).clamp(max=self._items - 1)


class UniformUsers(nn.Module):
    """Replaces each pair by a uniformly drawn user and one of the user's training items.

    Without it, users with many interactions are more frequent; LightGCN is trained this way in the library Recommenders.
    ``y`` is that of the drawn interaction.

    Args:
        probability: of replacing a pair.
    """

    @bounded
    def __init__(self, probability: Fraction = 1.0) -> None:
        super().__init__()
        self.probability = probability
        self._x: Tensor | None = None

    def prepare(self, data: InMemoryData) -> None:
        """Sort the training part by user. Raises UserError if the data are not pairs of users and items."""
        if tuple(data.input_shape) != (2,):
            raise UserError(f"augmentation: uniform users need pairs of users and items, not {data.name}")
        x, train = torch.as_tensor(data.arrays.x), data.splits["train"]
        order = train[x[train, 0].argsort(stable=True)]
        self._x, self._y = x[order], data.arrays.y[order]
        _, self._counts = self._x[:, 0].unique_consecutive(return_counts=True)
        self._starts = self._counts.cumsum(0) - self._counts

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch of pairs int64 [B, 2]."""
        require_prepared(self, self._x is not None)
        assert self._x is not None
        x, y = batch["x"], batch["y"]
        user = torch.randint(len(self._counts), (len(x),), generator=generator)
        place = (torch.rand(len(x), generator=generator, dtype=torch.float64) * self._counts[user]).long()
        row = self._starts[user] + place
        moved = bernoulli_mask(len(x), self.probability, generator).to(x.device)
        return {
            **batch,
            "x": torch.where(moved[:, None], self._x[row].to(x.device), x),
            "y": torch.where(moved, self._y[row].to(y), y),
        }


class RatingNoise(nn.Module):
    """Adds Gaussian noise to ``batch["y"]``, float [B], and clamps it to the rating scale.

    Args:
        std: of the noise, in stars.
        scale: lowest and highest rating.
        probability: of changing a rating.
    """

    @bounded
    def __init__(
        self, std: NonNegative = 0.25, scale: Sequence[float] = (1.0, 5.0), probability: Fraction = 1.0
    ) -> None:
        super().__init__()
        check_range(self, "scale", scale)
        if scale[0] == scale[1]:
            raise UserError(f"augmentation: RatingNoise.scale={list(scale)} must be two different ratings")
        self.std, self.probability = std, probability
        self.scale = (float(scale[0]), float(scale[1]))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch; the given one is not modified. Raises UserError if the targets are not ratings."""
        y = batch["y"]
        if not y.is_floating_point() or y.ndim != 1:
            raise UserError("augmentation: RatingNoise needs one rating per sample; try data=movielens")
        noise = self.std * torch.randn(len(y), generator=generator)
        changed = bernoulli_mask(len(y), self.probability, generator).to(y.device)
        return {**batch, "y": torch.where(changed, (y + noise.to(y)).clamp(*self.scale), y)}
