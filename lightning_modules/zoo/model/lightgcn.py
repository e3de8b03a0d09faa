"""LightGCN: embeddings propagated over the graph of interactions (He et al. 2020)."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.compat.torch import tensor_version
from lightning_modules.config.bounds import Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.matrix_factorization import PairScorer, require_pairs


class LightGCN(PairScorer):
    """The dot product of a user's and an item's embedding, each averaged over 0..layers propagation steps.

    A step multiplies by D^-1/2 A D^-1/2 (equations 7 and 8), where A is the adjacency of users and items in the training
    split. The graph is a buffer and part of the checkpoint. Every training step propagates all embeddings.

    Args:
        num_interactions: of the training split, taken from the data.
        factors: embedding size; Glorot uniform initialisation.
        layers: propagation steps; 0 is matrix factorisation.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int = 1,
        num_users: int | None = None,
        num_items: int | None = None,
        num_interactions: int | None = None,
        factors: int = 64,
        layers: Whole = 3,
    ) -> None:
        super().__init__(input_shape, num_users, num_items)
        require_pairs(self, input_shape, "movielens_implicit", num_interactions=num_interactions)
        assert num_interactions is not None
        self.layers = layers
        self.user_factors, self.item_factors = self.embeddings(factors)
        nn.init.xavier_uniform_(self.user_factors.weight)
        nn.init.xavier_uniform_(self.item_factors.weight)
        self.register_buffer("edges", torch.zeros(num_interactions, 2, dtype=torch.int64))
        self.edges: Tensor
        self._graph: tuple[object, Tensor] | None = None  # computed from the edges on first use

    def set_graph(self, pairs: Tensor) -> None:
        """Set the graph from the training pairs int64 [num_interactions, 2] (user, item). Raises UserError for others."""
        if pairs.shape != self.edges.shape:
            raise UserError(f"model.num_interactions={len(self.edges)}, but the training split has {len(pairs)}")
        self.edges.copy_(pairs)

    def forward(self, pairs: Tensor) -> Tensor:
        users, items = self.propagate()
        user, item = pairs.unbind(1)
        return (users[user] * items[item]).sum(1, keepdim=True)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The mean embeddings of all users and of all items, [num_users, factors] and [num_items, factors]."""
        start = torch.cat([self.user_factors.weight, self.item_factors.weight])
        if self.layers:
            start = _Propagation.apply(start, self.graph(), self.layers)
        users, items = start.split([self.num_users, self.num_items])
        return users, items

    def graph(self) -> Tensor:
        """D^-1/2 A D^-1/2 of users and items, sparse CSR [num_users + num_items, num_users + num_items]."""
        version = (tensor_version(self.edges), self.edges.data_ptr(), self.edges.device)
        if self._graph is None or self._graph[0] != version:
            self._graph = (version, _normalized_adjacency(self.edges, self.num_users, self.num_items))
        return self._graph[1]

    def item_scores(self, users: Tensor) -> Tensor:
        of_users, of_items = self.propagate()
        return of_users[users] @ of_items.T

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_graph": None}


def _normalized_adjacency(edges: Tensor, num_users: int, num_items: int) -> Tensor:
    """The symmetric adjacency of pairs int64 [E, 2], each weighted by 1 / sqrt(degree * degree), without duplicates."""
    size = num_users + num_items
    user, item = edges.unique(dim=0).unbind(1)
    rows, columns = torch.cat([user, item + num_users]), torch.cat([item + num_users, user])
    degree = rows.bincount(minlength=size).float()
    weights = (degree[rows] * degree[columns]).rsqrt()
    places = torch.stack([rows, columns])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Sparse (CSR tensor support|invariant checks).*")
        return torch.sparse_coo_tensor(places, weights, (size, size), check_invariants=False).coalesce().to_sparse_csr()


class _Propagation(torch.autograd.Function):
    """The mean of E, GE, …, G^layers E. G is symmetric, so the gradient is propagated in the same way."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, graph: Tensor, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        return _mean_propagation(start, graph, layers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _mean_propagation(gradient, ctx.graph, ctx.layers), None, None


def _mean_propagation(start: Tensor, graph: Tensor, layers: int) -> Tensor:
    total = step = start.contiguous()
    for _ in range(layers):
        step = graph @ step
        total = total + step
    return total / (layers + 1)
