"""Matrix factorisation of ratings (Koren, Bell and Volinsky 2009, equation 4)."""

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
