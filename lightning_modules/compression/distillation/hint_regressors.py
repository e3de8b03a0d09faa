"""The regressors of feature hints: trained beside the student with a separate optimizer, not part of the student."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.compression.distillation.feature_hooks import make_regressor, match_spatial_size
from lightning_modules.compression.distillation.losses import hint_loss


class HintRegressors:
    """One regressor for each pair of layers, created from the shapes of the first features.

    They are created again when the widths change, as after structured pruning. Under DDP all ranks use the same seed
    and average their gradients.
    """

    def __init__(self, lr: float) -> None:
        self.lr, self.seed = lr, 0
        self.shapes: list[list[int]] = []
        self.regressors = nn.ModuleList()
        self._optimizer: torch.optim.Optimizer | None = None
        self._waiting: dict[str, Any] | None = None

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Half the mean squared difference after the regressor, averaged over the pairs of layers."""
        pairs = [
            match_spatial_size(s, t) if s.ndim == t.ndim == 4 else (s, t) for s, t in zip(student, teacher, strict=True)
        ]
        shapes = [[*s.shape[1:], *t.shape[1:]] for s, t in pairs]
        if shapes != self.shapes:
            self._make(pairs, shapes)
        found = [hint_loss(layer(s), t) for layer, (s, t) in zip(self.regressors, pairs, strict=True)]
        return torch.stack(found).mean()

    def _make(self, pairs: Sequence[tuple[Tensor, Tensor]], shapes: list[list[int]]) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.regressors = nn.ModuleList(make_regressor(s, t) for s, t in pairs).to(pairs[0][0].device)
        self._optimizer = torch.optim.Adam(self.regressors.parameters(), lr=self.lr)
        self.shapes = shapes
        if self._waiting and self._waiting["shapes"] == shapes:
            self.regressors.load_state_dict(self._waiting["regressors"])
            self._optimizer.load_state_dict(self._waiting["optimizer"])
        self._waiting = None

    def step(self) -> None:
        """Take an optimizer step with the regressors' gradients."""
        if self._optimizer is None:
            return
        if dist.is_available() and dist.is_initialized():
            for parameter in self.regressors.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; empty before the first step."""
        if self._optimizer is None:
            return self._waiting or {}
        own = {"regressors": dict(self.regressors.state_dict()), "optimizer": self._optimizer.state_dict()}
        return {"shapes": self.shapes, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the regressors are created."""
        self._waiting, self._optimizer, self.shapes = state or None, None, []
