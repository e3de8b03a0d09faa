"""Rating prediction on a bounded scale."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.regression import Regression


class Rating(Regression):
    """One rating [B, 1] per pair, clamped to the scale in evaluation but not in training.

    Args:
        scale: the lowest and the highest rating.
        pair_decay: weight of the squared norm of the factors and biases of each rating's user and item, added to its
            squared error (Koren et al. 2009, equation 5); it regularises frequent users and items more.
        user_decay, item_decay: weights of the sums of squared biases over all users and items, added to the sum of
            squared errors of a batch. With full-batch training this is the objective of Koren 2010 ("Factor in the
            Neighbors", section 2.2).
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        scale: Sequence[float] = (1.0, 5.0),
        pair_decay: NonNegative = 0.0,
        user_decay: NonNegative = 0.0,
        item_decay: NonNegative = 0.0,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if len(scale) != 2 or not scale[0] < scale[1]:
            raise UserError(f"task.scale={list(scale)}: expected the lowest and the highest rating, as in [1, 5]")
        if self.num_outputs != 1:
            raise UserError(f"task=rating: expected task.num_outputs=1, got {self.num_outputs}")
        needed = {"squared_norms": pair_decay, "user_bias": user_decay, "item_bias": item_decay}
        if lacking := [name for name, weight in needed.items() if weight and not hasattr(model, name)]:
            raise UserError(f"task=rating: {type(model).__name__} has no {lacking[0]}; set that weight of task to 0")
        self.scale = (float(scale[0]), float(scale[1]))
        self.pair_decay, self.user_decay, self.item_decay = pair_decay, user_decay, item_decay

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        loss, model = super().training_loss(batch, step), cast(Any, self.model)
        if self.pair_decay:
            loss = loss + self.pair_decay * model.squared_norms(batch["x"]).mean()
        for name, weight in (("user_bias", self.user_decay), ("item_bias", self.item_decay)):
            if weight:
                loss = loss + weight / len(batch["y"]) * getattr(model, name).weight.square().sum()
        return loss

    def scores(self, outputs: Tensor) -> Tensor:
        return super().scores(outputs).clamp(*self.scale)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return super().evaluation_loss(torch.clamp(outputs, *self.scale), y)
