"""Network and loss of Gorman and Sejnowski 1988: uniform initialisation, squared error with a margin."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import bounded
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.time_series import init_uniform


class UniformMLP(MLP):
    """An `MLP` whose weights and biases are initialised in U(-bound, bound), independent of the layer width.

    Gorman and Sejnowski 1988: sigmoid units, bound 0.3, and 0 to 24 hidden units.
    """

    def __init__(self, bound: float = 0.3, **settings: Any) -> None:
        super().__init__(**settings)
        init_uniform(self, bound)


class MarginSquaredError(nn.Module):
    """Half the squared error of sigmoid units against one-hot targets; errors below `margin` count as zero.

    Logits [B, C] and classes int64 [B] -> sum over units, mean over samples. Rumelhart, Hinton and Williams 1986,
    equation 3; the margin is from Gorman and Sejnowski 1988 (0.2).
    """

    @bounded
    def __init__(self, margin: Annotated[float, Ge(0), Lt(1)] = 0.2) -> None:
        super().__init__()

        self.margin = margin

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        target = torch.zeros_like(logits).scatter_(1, y.unsqueeze(1), 1.0)
        error = F.hardshrink(logits.sigmoid() - target, self.margin).flatten()
        return error.dot(error) * (0.5 / len(y))  # few operations: with one sample per step all cost is overhead
