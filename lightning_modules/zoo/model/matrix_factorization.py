"""Networks that score (user, item) pairs by a product of factors: for ratings and for rankings."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

_PAIRS_PER_BATCH = 2**18  # scored in one forward pass


def require_pairs(model: nn.Module, input_shape: Sequence[int], data: str, **sizes: float | None) -> None:
    """Raise UserError, with an example of `data`, if samples are not pairs or one of the `sizes` is unknown."""
    name = type(model).__name__
    if tuple(input_shape) != (2,):
        shape = tuple(input_shape)
        raise UserError(f"model ({name}) needs pairs (user, item), got samples of shape {shape}; try data={data}")
    if unknown := [f"model.{key}" for key, value in sizes.items() if value is None]:
        raise UserError(f"model ({name}): {', '.join(unknown)} unknown for this data; set a value, or try data={data}")


class MatrixFactorization(nn.Module):
    """``mean + user_bias + item_bias + user_factors . item_factors`` of pairs int64 [B, 2] (user, item) -> [B, 1].

    Args:
        num_users, num_items: taken from the data.
        mean: rating of the training split; not learned.
        factors: embedding size; 0: biases only.
        std: of the normal distribution of the initial factors; biases are zero.

    Raises UserError if the samples are not pairs, or the sizes are unknown.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int = 1,
        num_users: int | None = None,
        num_items: int | None = None,
        mean: float | None = None,
        factors: int = 100,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        require_pairs(self, input_shape, "movielens", num_users=num_users, num_items=num_items, mean=mean)
        assert num_users is not None and num_items is not None and mean is not None
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.mean: Tensor
        self.user_bias, self.item_bias = nn.Embedding(num_users, 1), nn.Embedding(num_items, 1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        self.factors = factors
        if factors:
            self.user_factors, self.item_factors = nn.Embedding(num_users, factors), nn.Embedding(num_items, factors)
            nn.init.normal_(self.user_factors.weight, std=std)
            nn.init.normal_(self.item_factors.weight, std=std)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        rating = self.mean + self.user_bias(user) + self.item_bias(item)
        if self.factors:
            rating = rating + (self.user_factors(user) * self.item_factors(item)).sum(1, keepdim=True)
        return rating

    def squared_norms(self, pairs: Tensor) -> Tensor:
        """The squared norm of the biases and factors of each pair's user and item, [B]."""
        user, item = pairs.unbind(1)
        parts = [self.user_bias(user), self.item_bias(item)]
        if self.factors:
            parts += [self.user_factors(user), self.item_factors(item)]
        return torch.cat(parts, dim=1).square().sum(1)


class PairScorer(nn.Module):
    """Scores pairs int64 [B, 2] (user, item) -> [B, 1]; items with higher scores are ranked first.

    Its embeddings are attributes named ``user_…`` and ``item_…``. Numbers of users and items are taken from the data.

    Raises UserError if the samples are not pairs, or those numbers are unknown.
    """

    def __init__(self, input_shape: Sequence[int], num_users: int | None, num_items: int | None) -> None:
        super().__init__()
        require_pairs(self, input_shape, "movielens_implicit", num_users=num_users, num_items=num_items)
        assert num_users is not None and num_items is not None
        self.num_users, self.num_items = num_users, num_items

    def embeddings(self, size: int) -> tuple[nn.Embedding, nn.Embedding]:
        """One embedding of all users, and one of all items."""
        return nn.Embedding(self.num_users, size), nn.Embedding(self.num_items, size)

    def squared_norms(self, users: Tensor, items: Tensor) -> Tensor:
        """Squared norm of the embeddings of each user [B] and its items [B, M] -> [B]."""
        tables = [(name, table) for name, table in self.named_children() if isinstance(table, nn.Embedding)]
        of_users = sum(table(users).square().sum(1) for name, table in tables if name.startswith("user_"))
        of_items = sum(table(items).square().sum((1, 2)) for name, table in tables if name.startswith("item_"))
        return torch.as_tensor(of_users + of_items)

    def item_scores(self, users: Tensor) -> Tensor:
        """Scores of all items for the users int64 [U] -> [U, num_items]; subclasses may have a faster way."""
        items = torch.arange(self.num_items, device=users.device)
        parts = users.split(max(1, _PAIRS_PER_BATCH // self.num_items))
        return torch.cat([self(torch.cartesian_prod(part, items)).view(len(part), -1) for part in parts])


class BPRMatrixFactorization(PairScorer):
    """``item_bias + user_factors . item_factors``: a user bias would not change a ranking.

    Args:
        factors: embedding size.
        bound: initial factors are uniform in [-bound, bound]; null: 0.5 / factors, as in Cornac. Biases are zero.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int = 1,
        num_users: int | None = None,
        num_items: int | None = None,
        factors: int = 64,
        bound: float | None = None,
    ) -> None:
        super().__init__(input_shape, num_users, num_items)
        self.user_factors, self.item_factors = self.embeddings(factors)
        self.item_bias = nn.Embedding(self.num_items, 1)
        bound = 0.5 / factors if bound is None else bound
        nn.init.uniform_(self.user_factors.weight, -bound, bound)
        nn.init.uniform_(self.item_factors.weight, -bound, bound)
        nn.init.zeros_(self.item_bias.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        product = (self.user_factors(user) * self.item_factors(item)).sum(1, keepdim=True)
        return product + self.item_bias(item)

    def item_scores(self, users: Tensor) -> Tensor:
        return self.user_factors(users) @ self.item_factors.weight.T + self.item_bias.weight.T


class NeuMF(PairScorer):
    """A generalised matrix factorisation and an MLP with separate embeddings, combined by a linear layer.

    He et al. 2017, "Neural Collaborative Filtering", section 3.4.

    Args:
        factors: embedding size of the factorisation.
        layers: widths of the MLP; the first one is its input: user and item embeddings of half that size.
        std: of the normal distribution of the initial embeddings (0.01 in the paper).
        dropout: after each hidden layer.

    Raises UserError if the first width is odd.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int = 1,
        num_users: int | None = None,
        num_items: int | None = None,
        factors: int = 8,
        layers: Sequence[int] = (64, 32, 16, 8),
        std: float = 0.01,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_shape, num_users, num_items)
        if not layers or layers[0] % 2:
            raise UserError(
                f"model.layers={list(layers)}: the first width (user and item embedding concatenated) must be even"
            )
        self.user_factors, self.item_factors = self.embeddings(factors)
        self.user_input, self.item_input = self.embeddings(layers[0] // 2)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(factors + layers[-1], 1)
        for table in (self.user_factors, self.item_factors, self.user_input, self.item_input):
            nn.init.normal_(table.weight, std=std)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        h = torch.cat([self.user_input(user), self.item_input(item)], dim=1)
        for layer in self.hidden:
            h = self.dropout(layer(h).relu())
        return self.head(torch.cat([self.user_factors(user) * self.item_factors(item), h], dim=1))
