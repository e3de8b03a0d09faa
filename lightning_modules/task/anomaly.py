"""Names the step and the layer of the first value that is not finite (``debug=anomaly``)."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.errors import UserError


class AnomalyDetection(Callback):
    """Looks at every layer's output and at every gradient before the optimizer uses it. Slow: for finding a fault."""

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if not list(layer.children()):
                self._handles.append(layer.register_forward_hook(self._look_at(name, layer)))

    def _look_at(self, name: str, layer: nn.Module) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            values = output if isinstance(output, Tensor) else next((o for o in output if isinstance(o, Tensor)), None)
            if values is not None and values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise UserError(f"Step {self._step}: the output of {name} ({type(layer).__name__}) is not finite")

        return look

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        for name, parameter in reversed(list(pl_module.named_parameters())):  # the nearest to the loss first
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise UserError(f"Step {self._step}: the gradient of {name} is not finite")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
