"""Local SGD: every H steps the weights of the ranks are averaged (Stich 2018, algorithm 1)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch.distributed as dist
from annotated_types import Ge, Lt
from torch import Tensor

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.bounds import Positive, bounded
from lightning_modules.zoo.strategy.local_steps import LocalSteps, unflatten_into


class LocalSGD(LocalSteps):
    """Local steps of any optimizer, with the weights averaged every `period` steps.

    With `synchronous_steps` it is post-local SGD (Lin et al. 2018, section 3): DDP first, then local steps.

    With period 1 and SGD, with or without momentum, it equals DDP: the update is linear in the gradient, so the mean of
    the ranks' updates is the update of the mean gradient. This does not hold for Adam, nor for clipped gradients.
    """

    def end_period(self, step: int) -> None:
        unflatten_into(self.parameters(), self.mean(self.flat_parameters()))


class DiLoCo(LocalSteps):
    """Local steps of any optimizer, and every `period` steps an outer step with Nesterov momentum on all ranks.

    With weights w at the last outer step and w_i of rank i now, the outer gradient is d = w - mean(w_i); then
    v <- m v + d and w <- w - lr (d + m v), and all ranks continue from w (Douillard et al. 2023, algorithm 1, with
    ``torch.optim.SGD(nesterov=True)`` as the outer optimizer). With lr 1 and m 0 it is local SGD.

    Between two outer steps the mean of the w_i is validated and saved, without an outer step. Checkpoints hold w and v.

    Args:
        outer_lr: lr; outer_momentum: m.
    """

    @bounded
    def __init__(
        self,
        period: int = 50,
        outer_lr: Positive = 0.7,
        outer_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
        **ddp: Any,
    ) -> None:
        super().__init__(period, **ddp)
        self.outer_lr, self.outer_momentum = outer_lr, outer_momentum
        self._outer: list[Tensor] = []  # w
        self._velocity: list[Tensor] = []  # v

    def on_train_start(self) -> None:
        super().on_train_start()
        if not self._outer:
            self._outer = self.flat_parameters()
            self._velocity = [w.new_zeros(w.shape) for w in self._outer]

    def end_period(self, step: int) -> None:
        here = self.mean(self.flat_parameters(before=self._outer))
        for w, v, mean in zip(self._outer, self._velocity, here, strict=True):
            d = w - mean
            v.mul_(self.outer_momentum).add_(d)
            w.sub_(d.add_(v, alpha=self.outer_momentum), alpha=self.outer_lr)
        unflatten_into(self.parameters(), self._outer)

    def shared_state(self) -> StateDict:
        return {"outer": self._outer, "velocity": self._velocity}

    def load_shared_state(self, state: StateDict) -> None:
        self._outer, self._velocity = ([t.to(self.root_device) for t in state[key]] for key in ("outer", "velocity"))


@dataclass
class _PendingAverage:
    """A running all-reduce of the ranks' weights after `step` steps."""

    step: int
    snapshot: list[Tensor]  # this rank's weights then
    total: list[Tensor]  # their sum over the ranks, once the work is done
    works: list[dist.Work]

    @property
    def is_done(self) -> bool:
        return all(work.is_completed() for work in self.works)

    def wait(self) -> None:
        for work in self.works:
            work.wait()
        self.works = []


class AsynchronousAveraging(LocalSteps):
    """Every `period` steps an all-reduce of the weights starts in the background; no rank waits for it.

    It returns the mean of the weights s_i that the ranks had when it started. A rank with weights w_i then continues from
    mean(s) + (w_i - s_i): the mean plus its own progress since. The mean over the ranks does not change. Its age in steps
    is logged as ``comm/staleness_steps``, at most one period: the next all-reduce starts once the last one is applied.
    Communication is hidden as long as it takes no longer than a period.

    Args:
        apply: ``period_end`` applies the mean when the period ends, so that training is reproducible; ``done`` at the first
            step at which it is available: fresher, but then ranks, and two runs of one config, differ by chance.
    """

    @bounded
    def __init__(self, period: int = 8, apply: Literal["period_end", "done"] = "period_end", **ddp: Any) -> None:
        super().__init__(period, **ddp)
        self.apply = apply
        self._pending: _PendingAverage | None = None

    def after_local_step(self, step: int) -> None:
        if self.apply == "done" and self._pending is not None and self._pending.is_done:
            self._apply(step)

    def end_period(self, step: int) -> None:
        self._apply(step)
        if self.world_size == 1:
            return
        snapshot = self.flat_parameters()
        total = [s.clone() for s in snapshot]
        works = [work for t in total if (work := self.send(t, background=True))]
        self._pending = _PendingAverage(step, snapshot, total, works)

    def _apply(self, step: int) -> None:
        if self._pending is None:
            return
        average, self._pending = self._pending, None
        average.wait()
        here = self.flat_parameters(before=average.snapshot)
        for w, s, total in zip(here, average.snapshot, average.total, strict=True):
            w.add_(total.div_(self.world_size).sub_(s))
        unflatten_into(self.parameters(), here)
        self.log({"comm/staleness_steps": float(step - average.step)})

    def finish(self) -> None:
        if self._pending is not None:  # the mean over the ranks does not depend on it
            self._pending.wait()
            self._pending = None
        super().finish()

    def local_state(self) -> StateDict:
        if self._pending is None:
            return {}
        self._pending.wait()
        return {"step": self._pending.step, "snapshot": self._pending.snapshot, "total": self._pending.total}

    def load_local_state(self, state: StateDict) -> None:
        if state:
            snapshot, total = ([t.to(self.root_device) for t in state[key]] for key in ("snapshot", "total"))
            self._pending = _PendingAverage(int(state["step"]), snapshot, total, [])
