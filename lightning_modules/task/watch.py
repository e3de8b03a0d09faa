"""Stops a run whose loss is no longer a number, and says where it happened."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_modules.errors import UserError


class LossWatch:
    """Keeps the last losses as tensors and looks at them once per `window` steps: no synchronisation in between."""

    def __init__(self, window: int) -> None:
        self.window = max(1, window)
        self._recent: list[tuple[int, Tensor, Tensor, float]] = []

    def see(self, step: int, loss: Tensor, index: Tensor, lr: Callable[[], float]) -> None:
        """Remember the loss of `step`, computed on the samples `index` [B] at learning rate ``lr()``."""
        self._recent.append((step, loss.detach(), index, lr()))
        if len(self._recent) >= self.window:
            self.check()

    def check(self) -> None:
        """Raise UserError for the first step of the window whose loss is NaN or infinite."""
        recent, self._recent = self._recent, []
        if not recent or bool(torch.isfinite(torch.stack([loss for _, loss, _, _ in recent])).all()):
            return
        step, loss, index, lr = next(seen for seen in recent if not math.isfinite(float(seen[1])))
        shown = ", ".join(str(int(i)) for i in index[:20].flatten())
        more = f" … ({len(index)} samples)" if len(index) > 20 else ""
        raise UserError(
            f"The loss is {float(loss)} at step {step} (lr={lr:g}). Samples of that batch: {shown}{more}.\n"
            "Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or debug=anomaly, which names the layer."
        )

    def clear(self) -> None:
        """Forget all that was seen."""
        self._recent = []
