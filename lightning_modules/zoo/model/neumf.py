"""Neural matrix factorisation (He et al. 2017, "Neural Collaborative Filtering", section 3.4)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.matrix_factorization import PairScorer


class NeuMF(PairScorer):
    """A generalised matrix factorisation and an MLP with separate embeddings, combined by a linear layer.

    Args:
        factors: embedding size of the factorisation.
        layers: widths of the MLP; the first one is its input: user and item embeddings of half that size.
        std: of the normal distribution of the initial embeddings (0.01 in the paper).
        dropout: after each hidden layer.

    Raises:
        UserError: the first width is odd.
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
        half = layers[0] // 2
        self.user_factors, self.item_factors = (
            nn.Embedding(self.num_users, factors),
            nn.Embedding(self.num_items, factors),
        )
        self.user_input, self.item_input = nn.Embedding(self.num_users, half), nn.Embedding(self.num_items, half)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(factors + layers[-1], 1)
        for table in self._tables():
            nn.init.normal_(table.weight, std=std)

    def _tables(self) -> tuple[nn.Embedding, ...]:
        return self.user_factors, self.item_factors, self.user_input, self.item_input

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        h = torch.cat([self.user_input(user), self.item_input(item)], dim=1)
        for layer in self.hidden:
            h = self.dropout(layer(h).relu())
        return self.head(torch.cat([self.user_factors(user) * self.item_factors(item), h], dim=1))

    def squared_norms(self, users: Tensor, items: Tensor) -> Tensor:
        of_users = sum(table(users).square().sum(1) for table in (self.user_factors, self.user_input))
        return of_users + sum(table(items).square().sum((1, 2)) for table in (self.item_factors, self.item_input))
