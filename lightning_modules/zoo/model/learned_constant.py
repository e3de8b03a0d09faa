"""A model that ignores its input: one learned vector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LearnedConstant(nn.Module):
    """Returns the same learned vector [num_outputs] for every sample; it is initialised with `value`."""

    def __init__(self, input_shape: Sequence[int], num_outputs: int, value: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((num_outputs,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.expand(len(x), -1)
