"""LARS: SGD with momentum and layer-wise learning rates."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_modules.optimizer.layer_wise import LayerWiseOptimizer, require_not_negative


class LARS(LayerWiseOptimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, algorithm 1).

    For a layer with weights w and gradient g the local rate is q = trust ||w|| / (||g|| + weight_decay ||w||), and
    v <- momentum v + lr q (g + weight_decay w); w <- w - v. The learning rate is inside v, as in the paper, so that a
    falling rate does not shrink past steps. q is 1 if w or g is zero, and for parameters with one dimension (biases,
    norms), which the paper does not cover, unless ``adapt_vectors``.

    Args:
        lr: the global rate; with the paper's `trust` of 0.001 typically 1 to 30.

    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt_vectors: bool = False,
    ) -> None:
        require_not_negative(lr=lr, weight_decay=weight_decay, trust=trust)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: expected a value in [0, 1)")
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, {**settings, "adapt_vectors": adapt_vectors})

    def update_parameter(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        step = g.add(w, alpha=decay)
        if w.ndim > 1 or group["adapt_vectors"]:
            ours, theirs = w.norm(), g.norm()
            rate = group["trust"] * ours / (theirs + decay * ours)
            step.mul_(torch.where((ours > 0) & (theirs > 0), rate, torch.ones_like(rate)))
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        v = state["momentum_buffer"].mul_(group["momentum"]).add_(step, alpha=group["lr"])
        w.sub_(v)
