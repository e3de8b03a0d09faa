"""LAMB: Adam with layer-wise step sizes proportional to the norm of the weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_modules.optimizer.layer_wise import LayerWiseOptimizer, require_not_negative


class LAMB(LayerWiseOptimizer):
    """Layer-wise Adam (You et al. 2019, algorithm 2, with phi(||w||) = ||w||).

    With Adam's bias-corrected moments m and v: u = m / (sqrt(v) + eps) + weight_decay w, and
    w <- w - lr (||w|| / ||u||) u. The ratio is 1 if w or u is zero, and for parameters with one dimension (biases,
    norms) unless ``adapt_vectors``. Gradients are not clipped, as in the paper.

    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt_vectors: bool = False,
    ) -> None:
        require_not_negative(lr=lr, weight_decay=weight_decay, eps=eps)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)}: expected two values in [0, 1)")
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "adapt_vectors": adapt_vectors})

    def update_parameter(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(w), exp_avg_sq=torch.zeros_like(w))
        state["step"] += 1
        first, second = group["betas"]
        m = state["exp_avg"].lerp_(g, 1 - first)
        v = state["exp_avg_sq"].mul_(second).addcmul_(g, g, value=1 - second)
        corrected = (v / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        u = (m / (1 - first ** state["step"])).div_(corrected).add_(w, alpha=group["weight_decay"])
        if w.ndim > 1 or group["adapt_vectors"]:
            ours, theirs = w.norm(), u.norm()
            u.mul_(torch.where((ours > 0) & (theirs > 0), ours / theirs, torch.ones_like(ours)))
        w.sub_(u, alpha=group["lr"])
