"""Stops a run at the first NaN or infinite value: of the loss, or (``debug=anomaly``) of a layer or gradient."""

import math
from collections.abc import Callable, Sequence

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class NanGuard:
    """Checks the losses once per `window` steps, to avoid synchronising with the device in every step."""

    def __init__(self, window: int) -> None:
        self.window = max(1, window)
        self._recent: list[tuple[int, Tensor, Tensor, float | Tensor]] = []

    def record(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None:
        """Store the detached loss of `step`, computed on samples `index` [B] (empty: unknown) with learning rate `lr`."""
        self._recent.append((step, loss, index, lr))
        if len(self._recent) >= self.window:
            self.check()

    def check(self) -> None:
        """Raise UserError for the first step since the last check whose loss is NaN or infinite."""
        recent, self._recent = self._recent, []
        if not recent or bool(torch.isfinite(torch.stack([seen[1] for seen in recent])).all()):
            return
        step, loss, index, lr = next(seen for seen in recent if not math.isfinite(float(seen[1])))
        listed = ", ".join(str(int(i)) for i in index[:20].flatten())
        more = f" … ({len(index)} samples)" if len(index) > 20 else ""
        shown = f" Samples of the batch: {listed}{more}." if len(index) else ""
        raise UserError(
            f"The loss is {float(loss)} at step {step} (lr={float(lr):g}).{shown}\n"
            "Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or debug=anomaly, which names the layer.",
            step=step,
        )

    def clear(self) -> None:
        """Discard the stored losses."""
        self._recent = []


class NanDetector(Callback):
    """Checks every layer's output, and every gradient before the optimizer step. Slow: for debugging only."""

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if not list(layer.children()):
                self._handles.append(layer.register_forward_hook(self._check_output(name, layer)))

    def _check_output(
        self, name: str, layer: nn.Module
    ) -> Callable[[nn.Module, object, Tensor | Sequence[object]], None]:
        def check(module: nn.Module, inputs: object, output: Tensor | Sequence[object]) -> None:
            values = output if isinstance(output, Tensor) else next((o for o in output if isinstance(o, Tensor)), None)
            if values is not None and values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise UserError(f"Step {self._step}: the output of {name} ({type(layer).__name__}) is not finite")

        return check

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for name, parameter in reversed(list(pl_module.named_parameters())):  # closest to the loss first
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise UserError(f"Step {self._step}: the gradient of {name} is not finite")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
