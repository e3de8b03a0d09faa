"""Callbacks: the mean training loss, and a progress bar."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor

from lightning_modules.compat.lightning import set_metrics, train_description
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


class CompactProgressBar(RichProgressBar):
    """One bar for the training batches of an epoch, and a second one for validation sets of `long_validation` batches or more.

    Lightning redraws the screen at the start of each epoch and validation, and never removes validation bars (2.6); this
    one is redrawn `refresh_rate` times per second.
    """

    def __init__(
        self,
        refresh_rate: int = 5,
        leave: bool = False,
        long_validation: int = 20,
        shown: Sequence[str] = ("train/accuracy", "val/loss", "val/accuracy"),
    ) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self.long_validation = long_validation
        self.shown = tuple(shown)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The latest value of each metric in `shown`, displayed to the right of the bar."""
        known = trainer.callback_metrics
        return {name: f"{float(known[name]):.3f}" for name in self.shown if name in known}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_disabled or self.train_progress_bar_id is None or self.progress is None:
            super().on_train_epoch_start(trainer, pl_module)
            return
        description = train_description(self, trainer.current_epoch)
        self.progress.update(
            self.train_progress_bar_id, completed=0, total=self.total_train_batches, description=description
        )
        self.refresh()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn != "fit" or sum(map(float, trainer.num_val_batches)) >= self.long_validation:
            super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and self.progress is not None and self.val_progress_bar_id is not None:
            self.progress.remove_task(self.val_progress_bar_id)
            self.val_progress_bar_id = None
