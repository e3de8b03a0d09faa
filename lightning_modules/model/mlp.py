"""Multi-layer perceptrons on flattened samples; a linear model without hidden layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError, suggest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class CategoryEmbedding(nn.Module):
    """x [B, D], whose last columns are categories below `sizes` -> [B, D + added], a vector for each category.

    The widths are those of fastai's ``emb_sz_rule``. The last category, which no training sample has, is the zero vector.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        widths = [min(600, round(1.6 * size**0.56)) for size in sizes]
        self.added = sum(widths) - len(widths)
        self.tables = nn.ModuleList(nn.Embedding(n, d, padding_idx=n - 1) for n, d in zip(sizes, widths, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        first = x.shape[1] - len(self.tables)
        return torch.cat([x[:, :first], *(table(x[:, first + k].long()) for k, table in enumerate(self.tables))], 1)


class MLP(nn.Module):
    """Linear layers of the widths in `hidden`, each followed by activation and dropout, then a linear head.

    `residual` adds a skip connection to every hidden layer but the first, as in the MLP of MNIST-1D (Greydanus and Kobak
    2024, notebooks/models.py). LeNet-300-100 (LeCun et al. 1998) is `hidden=[300, 100]`. `category_sizes` belong to the last
    columns of x [B, D], whose categories are embedded. Raises UserError for an unknown activation, and for residual layers
    of unequal width.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (100, 100),
        activation: str = "relu",
        dropout: float = 0.0,
        residual: bool = False,
        category_sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"model.activation={activation}: {suggest(activation, ACTIVATIONS)}")
        if residual and len(set(hidden)) > 1:
            raise UserError(f"model.residual=true needs model.hidden of one width, not {list(hidden)}")
        self.embedding = CategoryEmbedding(category_sizes) if category_sizes else None
        widths = [math.prod(input_shape) + (self.embedding.added if self.embedding else 0), *hidden]
        self.residual = residual
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) if self.embedding else x.flatten(1)
        for index, layer in enumerate(self.hidden):
            h = self.dropout(self.activation(layer(x)))
            x = x + h if self.residual and index > 0 else h
        return self.head(x)
