"""Networks that score (user, item) pairs by a product of factors: for ratings and for rankings."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class MatrixFactorization(nn.Module):
    """``mean + user_bias + item_bias + user_factors . item_factors`` of pairs int64 [B, 2] (user, item) -> [B, 1].

    Args:
        num_users, num_items: taken from the data.
        mean: rating of the training split; not learned.
        factors: embedding size; 0: biases only.
        std: of the normal distribution of the initial factors; biases are zero.

    Raises:
        UserError: the samples are not pairs, or the numbers of users and items are unknown.
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
        if tuple(input_shape) != (2,):
            raise UserError(
                f"model=matrix_factorization needs pairs (user, item), got samples of shape {tuple(input_shape)}; "
                "try data=movielens"
            )
        if num_users is None or num_items is None or mean is None:
            raise UserError("model.num_users, model.num_items and model.mean are unknown for this data; set all three")
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


_PAIRS_PER_BATCH = 2**18  # scored in one forward pass


class PairScorer(nn.Module):
    """Scores pairs int64 [B, 2] (user, item) -> [B, 1]; items with higher scores are ranked first.

    Args:
        num_users, num_items: taken from the data.

    Raises:
        UserError: the samples are not pairs, or the numbers of users and items are unknown.
    """

    def __init__(self, input_shape: Sequence[int], num_users: int | None, num_items: int | None) -> None:
        super().__init__()
        name = type(self).__name__
        if tuple(input_shape) != (2,):
            raise UserError(
                f"model ({name}) needs pairs (user, item), got samples of shape {tuple(input_shape)}; "
                "try data=movielens_implicit"
            )
        if num_users is None or num_items is None:
            raise UserError(
                f"model ({name}): model.num_users and model.num_items are unknown for this data; set both, or try "
                "data=movielens_implicit"
            )
        self.num_users, self.num_items = num_users, num_items

    @abstractmethod
    def squared_norms(self, users: Tensor, items: Tensor) -> Tensor:
        """Squared norm of the parameters of each user [B] and its items [B, M] -> [B]."""

    def item_scores(self, users: Tensor) -> Tensor:
        """Scores of all items for the users int64 [U] -> [U, num_items]; subclasses may have a faster way."""
        items = torch.arange(self.num_items, device=users.device)
        rows = [
            self(torch.cartesian_prod(part, items)).view(len(part), -1)
            for part in users.split(max(1, _PAIRS_PER_BATCH // self.num_items))
        ]
        return torch.cat(rows)


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
        self.user_factors = nn.Embedding(self.num_users, factors)
        self.item_factors = nn.Embedding(self.num_items, factors)
        self.item_bias = nn.Embedding(self.num_items, 1)
        bound = 0.5 / factors if bound is None else bound
        nn.init.uniform_(self.user_factors.weight, -bound, bound)
        nn.init.uniform_(self.item_factors.weight, -bound, bound)
        nn.init.zeros_(self.item_bias.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        product = (self.user_factors(user) * self.item_factors(item)).sum(1, keepdim=True)
        return product + self.item_bias(item)

    def squared_norms(self, users: Tensor, items: Tensor) -> Tensor:
        of_items = self.item_factors(items).square().sum((1, 2)) + self.item_bias(items).square().sum((1, 2))
        return self.user_factors(users).square().sum(1) + of_items

    def item_scores(self, users: Tensor) -> Tensor:
        return self.user_factors(users) @ self.item_factors.weight.T + self.item_bias.weight.T
