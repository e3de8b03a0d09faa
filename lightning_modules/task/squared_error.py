"""The loss of the first years of back-propagation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.errors import UserError


class MarginSquaredError(nn.Module):
    """Half the squared errors of sigmoid units against one-hot targets; errors below `margin` count as none.

    Logits [B, C] and classes int64 [B] -> the sum over units, the mean over samples. Rumelhart, Hinton and Williams
    1986, equation 3; the margin as in Gorman and Sejnowski 1988, who took 0.2.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if not 0 <= margin < 1:
            raise UserError(f"task.loss.margin={margin}: it must lie in [0, 1)")
        self.margin = margin

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        target = torch.zeros_like(logits).scatter_(1, y.unsqueeze(1), 1.0)
        error = F.hardshrink(logits.sigmoid() - target, self.margin).flatten()
        return error.dot(error) * (0.5 / len(y))  # few operations: a step on one sample is all overhead
