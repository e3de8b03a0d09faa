"""Base class of optimizers that update each parameter by a rule of its own."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LayerWiseOptimizer(Optimizer):
    """Updates one parameter after another."""

    @abstractmethod
    def update_parameter(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
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


def require_not_negative(**settings: float) -> None:
    """Raise ValueError for the first setting that is below 0."""
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{name}={value}: expected 0 or more")
