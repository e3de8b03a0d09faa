"""Reports the step and layer of the first NaN or infinite value (``debug=anomaly``)."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class NanDetector(Callback):
    """Checks every layer's output, and every gradient before the optimizer step. Slow: for debugging only."""

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if not list(layer.children()):
                self._handles.append(layer.register_forward_hook(self._check_output(name, layer)))

    def _check_output(self, name: str, layer: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            values = output if isinstance(output, Tensor) else next((o for o in output if isinstance(o, Tensor)), None)
            if values is not None and values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise UserError(f"Step {self._step}: the output of {name} ({type(layer).__name__}) is not finite")

        return check

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        for name, parameter in reversed(list(pl_module.named_parameters())):  # closest to the loss first
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise UserError(f"Step {self._step}: the gradient of {name} is not finite")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
