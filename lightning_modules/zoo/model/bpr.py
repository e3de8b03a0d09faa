"""Matrix factorisation for rankings (Rendle et al. 2009, "BPR: Bayesian Personalized Ranking", section 4.3.1)."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.zoo.model.pair_scorer import PairScorer


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
