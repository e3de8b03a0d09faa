"""Large-batch training: the optimizers LARS and LAMB, and a learning rate that scales with the batch size."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from annotated_types import Ge, Lt
from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.trust import component
from lightning_modules.optimizer.lr_schedules import require_warmup_fits

Momentum = Annotated[float, Ge(0), Lt(1)]


class LayerWiseOptimizer(Optimizer):
    """Updates one parameter after another."""

    @abstractmethod
    def update_parameter(self, w: Tensor, g: Tensor, group: dict[str, object]) -> None:
        """Update weights `w` with gradient `g` in place, using the settings of their group."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self.update_parameter(w, w.grad, group)
        return loss


class LARS(LayerWiseOptimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, algorithm 1).

    For a layer with weights w and gradient g the local rate is q = trust ||w|| / (||g|| + weight_decay ||w||), and
    v <- momentum v + lr q (g + weight_decay w); w <- w - v. The learning rate is inside v, as in the paper, so that a
    falling rate does not shrink past steps. q is 1 if w or g is zero, and for parameters with one dimension (biases,
    norms), which the paper does not cover, unless ``adapt_vectors``.

    Args:
        lr: the global rate; with the paper's `trust` of 0.001 typically 1 to 30.
    """

    @bounded
    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 1.0,
        momentum: Momentum = 0.9,
        weight_decay: NonNegative = 0.0,
        trust: NonNegative = 0.001,
        adapt_vectors: bool = False,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, {**settings, "adapt_vectors": adapt_vectors})

    def update_parameter(self, w: Tensor, g: Tensor, group: PlainDict) -> None:
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


class LAMB(LayerWiseOptimizer):
    """Layer-wise Adam (You et al. 2019, algorithm 2, with phi(||w||) = ||w||).

    With Adam's bias-corrected moments m and v: u = m / (sqrt(v) + eps) + weight_decay w, and
    w <- w - lr (||w|| / ||u||) u. The ratio is 1 if w or u is zero, and for parameters with one dimension unless
    ``adapt_vectors``. Gradients are not clipped, as in the paper.
    """

    @bounded
    def __init__(
        self,
        params: ParamsT,
        lr: NonNegative = 0.002,
        betas: tuple[Momentum, Momentum] = (0.9, 0.999),
        eps: NonNegative = 1e-6,
        weight_decay: NonNegative = 0.01,
        adapt_vectors: bool = False,
    ) -> None:
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "adapt_vectors": adapt_vectors})

    def update_parameter(self, w: Tensor, g: Tensor, group: PlainDict) -> None:
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


@component
@bounded
def scaled_warmup(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    batch_size: Count = 128,
    accumulated: Count = 1,
    ranks: Count | None = None,
    reference_batch: Count = 128,
    rule: Literal["linear", "sqrt", "none"] = "linear",
    warmup_epochs: NonNegative = 5.0,
    decay: Literal["cosine", "none"] = "cosine",
) -> LRSchedulerConfigType:
    """Multiply the learning rate by k for a batch of k reference batches (Goyal et al. 2017, section 2).

    Gradual warm-up (section 2.2): within `warmup_epochs`, which may be fractional, the rate rises linearly from the
    optimizer's, which suits `reference_batch`, to k times it. Then it is constant, or decays as half a cosine to zero at
    the last step. A resumed run of another length is re-planned over the new total.

    Args:
        batch_size: of one rank.
        accumulated: batches of gradients accumulated per step.
        ranks: number of ranks whose gradients are averaged in a step; None: all processes; 1 for local SGD.
        rule: k is the ratio of the batch sizes ("linear"), its square root ("sqrt", You et al. 2019 for LAMB), or 1.

    Raises UserError if the warm-up is not shorter than the training.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    require_warmup_fits(warmup, total_steps, warmup_epochs)
    ranks = ranks or (dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1)
    ratio = batch_size * accumulated * ranks / reference_batch
    peak = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]

    def factor(step: int) -> float:
        if step < warmup:
            return 1 + (peak - 1) * step / warmup
        if decay == "none":
            return peak
        progress = (step - warmup) / max(1, total_steps - 1 - warmup)
        return peak * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
