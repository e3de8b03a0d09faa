"""Learning-rate scaling for large batches, with warm-up."""

import math
from typing import Any, Literal

import torch.distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.trust import component

RULES = ("linear", "sqrt", "none")


@component
def scaled_warmup(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    batch_size: int = 128,
    accumulated: int = 1,
    ranks: int | None = None,
    reference_batch: int = 128,
    rule: Literal["linear", "sqrt", "none"] = "linear",
    warmup_epochs: float = 5.0,
    decay: Literal["cosine", "none"] = "cosine",
) -> dict[str, Any]:
    """Multiply the learning rate by k for a batch of k reference batches (Goyal et al. 2017, section 2).

    Gradual warm-up (section 2.2): within `warmup_epochs`, which may be fractional, the rate rises linearly from the
    optimizer's, which suits `reference_batch`, to k times it. Then it is constant, or decays as half a cosine to zero at
    the last step. A resumed run of another length is re-planned over the new total.

    Args:
        batch_size: of one rank.
        accumulated: batches of gradients accumulated per step.
        ranks: number of ranks whose gradients are averaged in a step; None: all processes; 1 for local SGD.
        rule: k is the ratio of the batch sizes ("linear"), its square root ("sqrt", You et al. 2019 for LAMB), or 1.

    Raises UserError for settings out of range, or if the warm-up is not shorter than the training.
    """
    for name, value, choices in (("rule", rule, RULES), ("decay", decay, ("cosine", "none"))):
        if value not in choices:
            raise UserError(f"scheduler.{name}={value}: {suggest(str(value), choices)}")
    if reference_batch < 1:
        raise UserError(f"scheduler.reference_batch={reference_batch}: expected 1 or more")
    warmup = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < total_steps:
        raise UserError(
            f"scheduler.warmup_epochs={warmup_epochs}: a warm-up of {warmup} steps does not fit into a training of {total_steps}"
        )
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
