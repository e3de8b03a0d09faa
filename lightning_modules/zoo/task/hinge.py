"""Losses with a margin, and classification with a linear support vector machine as the head of a network."""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.classification import Classification


class SquaredHinge(nn.Module):
    """C max(0, 1 - t s)^2, averaged over samples and classes (one-vs-rest), with t = 1 or -1.

    Scores float [B, K], classes int64 [B]. Tang 2013, "Deep Learning using Linear Support Vector Machines", equation 5,
    as a mean.
    """

    def __init__(self, C: float = 1.0) -> None:  # noqa: N803 # the field's name for it
        super().__init__()
        self.C = C

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        target = 2.0 * F.one_hot(y, scores.shape[1]).to(scores.dtype) - 1.0
        return self.C * (1.0 - target * scores).clamp(min=0.0).square().mean()


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


class Hinge(Classification):
    """Scores [B, K] against classes int64 [B]; the weights W of the last linear layer are regularised in training.

    Args:
        norm: penalty on W that is added to the training loss: ``mean`` of squares (Agarap's code), ``half_sum`` of
            squares (0.5 |W|^2, the formula) or ``none``.
        by_sign: predict from the sign of the scores, the first class on ties, as in Agarap's code; else from the
            highest score.

    Raises UserError for a model without a linear layer.
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        norm: Literal["mean", "half_sum", "none"] = "mean",
        by_sign: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(model, loss, num_outputs=num_outputs, **settings)
        if self.kind != "multiclass":
            raise UserError(f"task.kind={self.kind}: task=hinge supports only multiclass")
        self.norm, self.by_sign = norm, by_sign
        self._last_layer()

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        loss = super().training_loss(batch, step)
        if self.norm == "none":
            return loss
        squares = self._last_layer().weight.square()
        return loss + (squares.mean() if self.norm == "mean" else 0.5 * squares.sum())

    def scores(self, outputs: Tensor) -> Tensor:
        """With `by_sign` 1 for a positive score and 0 for a negative one; else softmax probabilities."""
        return (outputs.sign() + 1) / 2 if self.by_sign else super().scores(outputs)

    def train_metric_sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        return super().train_metric_sums(torch.sign(outputs) if self.by_sign else outputs, y)

    def _last_layer(self) -> nn.Linear:
        """Looked up at each step, since a compression stage may replace the model."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise UserError("task=hinge: the model has no linear layer")
        return layers[-1]
