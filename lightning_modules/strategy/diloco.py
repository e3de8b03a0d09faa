"""DiLoCo: an outer optimizer takes the mean way of the ranks in a period for a gradient."""

from typing import Any

from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.flatten import flatten_by_dtype, unflatten_into
from lightning_modules.strategy.local_steps import LocalSteps


class DiLoCo(LocalSteps):
    """Inner steps of any optimizer, and every `period` steps an outer step with Nesterov momentum for all ranks.

    With weights w at the last outer step and w_i of rank i now, the outer gradient is d = w - mean(w_i); then
    v <- m v + d and w <- w - lr (d + m v), from which all ranks go on (Douillard et al. 2023, algorithm 1, with
    ``torch.optim.SGD(nesterov=True)`` as its outer optimizer). With lr 1 and m 0 it is local SGD.

    Between two outer steps the mean of the w_i is what is validated and saved; no outer step is taken for it. w and v
    are in the checkpoint.

    Args:
        outer_lr: lr; outer_momentum: m.
    """

    def __init__(self, period: int = 50, outer_lr: float = 0.7, outer_momentum: float = 0.9, **ddp: Any) -> None:
        if outer_lr <= 0:
            raise UserError(f"strategy.outer_lr={outer_lr}: it must be above 0")
        if not 0 <= outer_momentum < 1:
            raise UserError(f"strategy.outer_momentum={outer_momentum}: it must be 0 or more, and below 1")
        super().__init__(period, **ddp)
        self.outer_lr, self.outer_momentum = outer_lr, outer_momentum
        self._outer: list[Tensor] = []  # w
        self._velocity: list[Tensor] = []  # v

    def on_train_start(self) -> None:
        super().on_train_start()
        if not self._outer:
            self._outer = flatten_by_dtype(self.parameters())
            self._velocity = [w.new_zeros(w.shape) for w in self._outer]

    def end_period(self, step: int) -> None:
        here = self.mean(flatten_by_dtype(self.parameters()))
        if [v.shape for v in here] != [w.shape for w in self._outer]:
            raise UserError("strategy=diloco: other parameters are trained than before; none may be frozen on the way")
        for w, v, mean in zip(self._outer, self._velocity, here, strict=True):
            d = w - mean
            v.mul_(self.outer_momentum).add_(d)
            w.sub_(d.add_(v, alpha=self.outer_momentum), alpha=self.outer_lr)
        unflatten_into(self.parameters(), self._outer)

    def shared_state(self) -> dict[str, Any]:
        return {"outer": self._outer, "velocity": self._velocity}

    def load_shared_state(self, state: dict[str, Any]) -> None:
        self._outer, self._velocity = ([t.to(self.root_device) for t in state[key]] for key in ("outer", "velocity"))
