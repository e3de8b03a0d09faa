"""Stops a run whose loss is NaN or infinite, and reports the step."""

import math

import torch
from torch import Tensor

from lightning_modules.config.errors import UserError


class NanGuard:
    """Checks the losses once per `window` steps, to avoid synchronising with the device in every step."""

    def __init__(self, window: int) -> None:
        self.window = max(1, window)
        self._recent: list[tuple[int, Tensor, Tensor, float | Tensor]] = []

    def record(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None:
        """Store the detached loss of `step`, computed on samples `index` [B] with learning rate `lr`."""
        self._recent.append((step, loss, index, lr))
        if len(self._recent) >= self.window:
            self.check()

    def check(self) -> None:
        """Raise UserError for the first step since the last check whose loss is NaN or infinite."""
        recent, self._recent = self._recent, []
        if not recent or bool(torch.isfinite(torch.stack([seen[1] for seen in recent])).all()):
            return
        step, loss, index, lr = next(seen for seen in recent if not math.isfinite(float(seen[1])))
        shown = ", ".join(str(int(i)) for i in index[:20].flatten())
        more = f" … ({len(index)} samples)" if len(index) > 20 else ""
        raise UserError(
            f"The loss is {float(loss)} at step {step} (lr={float(lr):g}). Samples of the batch: {shown}{more}.\n"
            "Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or debug=anomaly, which names the layer."
        )

    def clear(self) -> None:
        """Discard the stored losses."""
        self._recent = []
