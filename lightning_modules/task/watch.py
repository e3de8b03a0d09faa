"""Stops a run whose loss is no longer a number, and says where it happened."""

import math

import torch
from torch import Tensor

from lightning_modules.errors import UserError


class LossWatch:
    """Keeps the last losses as tensors and looks at them once per `window` steps: no synchronisation in between."""

    def __init__(self, window: int) -> None:
        self.window = max(1, window)
        self._recent: list[tuple[int, Tensor, Tensor, float | Tensor]] = []

    def see(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None:
        """Remember the loss (detached) of `step`, computed on the samples `index` [B] at the learning rate `lr`."""
        self._recent.append((step, loss, index, lr))
        if len(self._recent) >= self.window:
            self.check()

    def check(self) -> None:
        """Raise UserError for the first step seen since the last look whose loss is NaN or infinite."""
        recent, self._recent = self._recent, []
        if not recent or bool(torch.isfinite(torch.stack([seen[1] for seen in recent])).all()):
            return
        step, loss, index, lr = next(seen for seen in recent if not math.isfinite(float(seen[1])))
        shown = ", ".join(str(int(i)) for i in index[:20].flatten())
        more = f" … ({len(index)} samples)" if len(index) > 20 else ""
        raise UserError(
            f"The loss is {float(loss)} at step {step} (lr={float(lr):g}). Samples of that batch: {shown}{more}.\n"
            "Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or debug=anomaly, which names the layer."
        )

    def clear(self) -> None:
        """Forget all that was seen."""
        self._recent = []
