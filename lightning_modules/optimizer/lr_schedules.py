"""Learning-rate schedules in the format that Lightning expects: `{"scheduler", "interval", "monitor"?}`.

Each function takes the optimizer, the total number of optimizer steps, the steps per epoch, and its own arguments.
State dicts contain plain values only, so that a checkpoint loads without unpickling.

If a run is resumed with another length, `cosine`, `one_cycle` and `scaled_warmup` are re-planned over the new total: from
the resumed step on, the learning rate is that of a run planned with the new length. `step` and `plateau` count epochs and
continue from their saved state. Longer than 200 lines: one function for each schedule.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Lt
from pytorch_lightning.utilities.types import LRSchedulerConfigType, LRSchedulerTypeUnion
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR

from lightning_modules.compat.torch import one_cycle_plan, set_last_lr
from lightning_modules.config.bounds import Count, Fraction, NonNegative, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.signature import parameters_of
from lightning_modules.config.trust import component


def plan_schedule(
    factory: partial[object], settings: PlainDict, optimizer: Optimizer, total_steps: int, steps_per_epoch: int
) -> LRSchedulerConfigType:
    """Lightning's scheduler dict from a class of torch, or from a function that returns a scheduler or such a dict.

    Lightning steps a scheduler once an epoch, OneCycleLR once a step, unless `settings` has another ``interval``.
    """
    accepted, _ = parameters_of(factory.func)
    given: dict[str, object] = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    given = {key: value for key, value in given.items() if key in accepted and key not in factory.keywords}
    if "epochs" in factory.keywords:
        given.pop("total_steps", None)
    if "schedulers" in factory.keywords:  # of SequentialLR and ChainedScheduler
        given["schedulers"] = [part(optimizer) for part in factory.keywords["schedulers"]]
    built: Any = (OneCycle if factory.func is OneCycleLR else factory.func)(optimizer, **{**factory.keywords, **given})
    if isinstance(built, dict):
        if settings:
            raise UserError(f"scheduler: {factory.func.__name__} chooses {', '.join(settings)} itself; remove it")
        return cast(LRSchedulerConfigType, built)
    if "monitor" in settings:
        built.monitor = settings["monitor"]  # for the fast loop: Lightning does not store it under manual optimization
    interval = "step" if isinstance(built, OneCycleLR) else "epoch"
    return cast(LRSchedulerConfigType, {"scheduler": built, "interval": interval, **settings})


@component
@bounded
def cosine(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup_epochs: NonNegative = 0.0,
    warmup_steps: Whole | None = None,
    min_lr: NonNegative = 0.0,
) -> LRSchedulerConfigType:
    """Linear warm-up, then half a cosine down to `min_lr` at the last step (Loshchilov and Hutter 2017, equation 5).

    Of w warm-up steps, step k = 0, 1, … uses (k + 1) / w of the learning rate. The warm-up is given in steps or in
    (fractional) epochs. Raises UserError if both are set, or if the warm-up is not shorter than the training.
    """
    if warmup_steps is not None and warmup_epochs:
        raise UserError("scheduler.warmup_steps and scheduler.warmup_epochs exclude each other: set one of them")
    warmup = round(warmup_epochs * steps_per_epoch) if warmup_steps is None else warmup_steps
    require_warmup_fits(warmup, total_steps, warmup_epochs if warmup_steps is None else None)
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    # closures are not saved: a resumed schedule is planned by the config, not by the checkpoint
    factors = [_cosine_factor(total_steps, warmup, min_lr / lr if lr else 1.0) for lr in rates]
    return {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}


def require_warmup_fits(steps: int, total_steps: int, epochs: float | None) -> None:
    """Raise UserError if a warm-up, given in `epochs` or in steps, is not shorter than the training."""
    if steps >= total_steps:
        key = f"warmup_steps={steps}" if epochs is None else f"warmup_epochs={epochs}"
        raise UserError(
            f"scheduler.{key}: a warm-up of {steps} steps does not fit into a training of {total_steps} steps"
        )


def _cosine_factor(total_steps: int, warmup: int, floor: float) -> Callable[[int], float]:
    peak, last = max(warmup - 1, 0), total_steps - 1

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if step >= last > 0:
            return floor
        progress = (step - peak) / max(last - peak, 1)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


@component
@bounded
def step(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    every: Count = 30,
    milestones: Sequence[int] | None = None,
    gamma: float = 0.1,
) -> LRSchedulerConfigType:
    """Multiply the learning rate by `gamma` every `every` epochs or, if given, at the epochs in `milestones`."""
    scheduler = MultiStepLR(optimizer, list(milestones), gamma) if milestones else StepLR(optimizer, every, gamma)
    return {"scheduler": scheduler, "interval": "epoch"}


@component
@bounded
def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    max_lr: float | None = None,
    pct_start: Fraction = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal_strategy: Literal["cos", "linear"] = "cos",
) -> LRSchedulerConfigType:
    """torch's OneCycleLR (Smith and Topin 2018) up to `max_lr`, by default the optimizer's learning rate.

    On resuming with another length the learning rate may rise again. Momentum is cycled only if the optimizer has one
    (torch would add it to plain SGD).
    """
    if total_steps < 1:
        raise UserError("scheduler: one_cycle needs a training of at least one step")
    groups = optimizer.param_groups
    scheduler = OneCycle(
        optimizer,
        max_lr=[group["lr"] if max_lr is None else max_lr for group in groups],
        total_steps=total_steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal_strategy=anneal_strategy,
        cycle_momentum=all(group.get("betas") or group.get("momentum") for group in groups),
    )
    return {"scheduler": scheduler, "interval": "step"}


class OneCycle(OneCycleLR):
    """OneCycleLR planned by the config instead of the checkpoint: torch restores the old total and fails after it."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        super().load_state_dict({**state_dict, **one_cycle_plan(self)})


@component
@bounded
def plateau(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    factor: Annotated[float, Lt(1)] = 0.1,
    patience: int = 10,
    min_lr: float = 0.0,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
) -> LRSchedulerConfigType:
    """torch's ReduceLROnPlateau: `factor` after more than `patience` epochs without an improvement of `monitor`.

    An improvement must exceed `threshold`, relative to the best value or, with "abs", absolute. Keras' schedule with
    patience p equals this one with patience p - 1 and "abs".
    """
    scheduler: Any = ReduceLROnPlateau(optimizer, mode, factor, patience, threshold, threshold_mode, min_lr=min_lr)
    scheduler.monitor = monitor
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


def replan_on_resume(scheduler: LRSchedulerTypeUnion, total: int, total_before: int | None) -> str | None:
    """Set a restored optimizer to the learning rate that the schedule plans for its step.

    Args:
        total: optimizer steps planned now.
        total_before: optimizer steps planned when the checkpoint was written; None if not recorded.

    Returns:
        A message if the planned length has changed, else None.
    """
    groups, restored = scheduler.optimizer.param_groups, scheduler.optimizer.param_groups[0]["lr"]
    if isinstance(scheduler, LambdaLR | OneCycle):  # functions of the step alone
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # get_lr warns outside of step()
            rates = scheduler.get_lr()
        if [float(group["lr"]) for group in groups] != [float(rate) for rate in rates]:
            before = float(restored)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate
            set_last_lr(scheduler, [group["lr"] for group in groups])
            lengths = f"{total} steps instead of {total_before}" if total_before else f"{total} steps"
            return f"scheduler: re-planned over {lengths}; the learning rate goes from {before:.4g} to {float(rates[0]):.4g}"
    if total_before in (None, total):
        return None
    return (
        f"scheduler: {total} steps are planned instead of {total_before}; {type(scheduler).__name__} continues from its "
        f"saved state, with the learning rate {float(restored):.4g}"
    )
