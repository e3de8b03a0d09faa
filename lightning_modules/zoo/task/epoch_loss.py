"""A callback: the mean training loss."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.compat.lightning import set_metrics
from lightning_modules.data.in_memory import Batch

METRIC = "train/epoch_loss"


class EpochLoss(pl.Callback):
    """Logs ``train/epoch_loss``: the mean over the epoch's samples, computed with the weights of each training step.

    It includes penalties and extra losses, as Keras' `loss` does. It is in ``callback_metrics`` before schedules step
    and checkpoints are written at the end of the epoch.
    """

    logs = (METRIC,)  # names that can be monitored in addition to the task's
    needs = "extra_losses"  # attribute of the task

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._count = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        extra_losses: list[object] = pl_module.extra_losses  # type: ignore[assignment]
        if self._add not in extra_losses:  # else: another fit of the same task
            extra_losses.append(self._add)

    def _add(self, loss: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        size = len(batch["y"])
        self._sums.append(loss.detach() * size)
        self._count += size
        return loss

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._sums, self._count = [], 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._count:
            return
        total = torch.stack([torch.stack(self._sums).double().sum(), torch.tensor(float(self._count)).double()])
        total = trainer.strategy.reduce(total.to(pl_module.device), reduce_op="sum").cpu()
        value = (total[0] / total[1]).float()
        set_metrics(trainer, {METRIC: value})
        for logger in trainer.loggers:
            logger.log_metrics({METRIC: value}, trainer.global_step)  # type: ignore[dict-item]
