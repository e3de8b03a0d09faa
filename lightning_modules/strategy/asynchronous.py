"""Asynchronous averaging: the ranks train on while their weights are averaged."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.strategy.flatten import flatten_by_dtype, unflatten_into
from lightning_modules.strategy.local_steps import LocalSteps


@dataclass
class _PendingAverage:
    """An average under way: of the ranks' weights after `step` steps."""

    step: int
    snapshot: list[Tensor]  # this rank's weights then
    total: list[Tensor]  # their sum over the ranks, once the work is done
    works: list[Any]

    @property
    def is_done(self) -> bool:
        return all(work.is_completed() for work in self.works)

    def wait(self) -> None:
        for work in self.works:
            work.wait()
        self.works = []


class AsynchronousAveraging(LocalSteps):
    """Every `period` steps an all-reduce of the weights begins in the background, and no rank waits for it.

    When it has given the mean of the weights s_i that the ranks had at its beginning, a rank with weights w_i puts
    mean(s) + (w_i - s_i), the mean and its own progress since, in their place. The mean over the ranks stays what it is.
    How many steps old the mean is, is logged as ``comm/staleness_steps``; it is one period at most, as the next all-reduce
    begins only when the last one is applied. The communication is hidden as long as it takes no longer than a period.

    Args:
        apply: ``period_end`` applies the mean when the period ends, which makes the training a function of its config;
            ``done`` at the first step at which it is there: fresher, but the ranks, and two runs, then differ by chance.
    """

    def __init__(self, period: int = 8, apply: Literal["period_end", "done"] = "period_end", **ddp: Any) -> None:
        choices = ("period_end", "done")
        if apply not in choices:
            raise UserError(f"strategy.apply={apply}: there is no such moment; {suggest(str(apply), choices)}")
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
        snapshot = flatten_by_dtype(self.parameters())
        total = [s.clone() for s in snapshot]
        self._pending = _PendingAverage(step, snapshot, total, [self.send(t, background=True) for t in total])

    def _apply(self, step: int) -> None:
        if self._pending is None:
            return
        average, self._pending = self._pending, None
        average.wait()
        here = flatten_by_dtype(self.parameters())
        if [w.shape for w in here] != [s.shape for s in average.snapshot]:
            raise UserError(
                "strategy=async_averaging: other parameters are trained than before; freeze none on the way"
            )
        for w, s, total in zip(here, average.snapshot, average.total, strict=True):
            w.add_(total.div_(self.world_size).sub_(s))
        unflatten_into(self.parameters(), here)
        self.log({"comm/staleness_steps": float(step - average.step)})

    def finish(self) -> None:
        if self._pending is not None:  # the mean over the ranks is the same with it and without
            self._pending.wait()
            self._pending = None
        super().finish()

    def local_state(self) -> dict[str, Any]:
        if self._pending is None:
            return {}
        self._pending.wait()
        return {"step": self._pending.step, "snapshot": self._pending.snapshot, "total": self._pending.total}

    def load_local_state(self, state: dict[str, Any]) -> None:
        if state:
            snapshot, total = ([t.to(self.root_device) for t in state[key]] for key in ("snapshot", "total"))
            self._pending = _PendingAverage(int(state["step"]), snapshot, total, [])
