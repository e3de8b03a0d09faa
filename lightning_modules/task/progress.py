"""Lightning's rich progress bar at a cost that short epochs do not feel."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar

from lightning_modules.compat.lightning import train_description


class Progress(RichProgressBar):
    """One bar of the epoch's training batches; a second one for validation sets of `long_validation` batches or more.

    Lightning draws the screen anew at the start of each epoch and of each validation, and keeps every validation's bar
    for ever (2.6); this one is drawn `refresh_rate` times a second, whatever happens in between.
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
        """The last value of each metric of `shown`, at the bar's right end."""
        known = trainer.callback_metrics
        return {name: f"{float(known[name]):.3f}" for name in self.shown if name in known}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_disabled or self.train_progress_bar_id is None or self.progress is None:
            super().on_train_epoch_start(trainer, pl_module)
            return
        said = train_description(self, trainer.current_epoch)
        self.progress.update(self.train_progress_bar_id, completed=0, total=self.total_train_batches, description=said)
        self.refresh()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn != "fit" or sum(map(float, trainer.num_val_batches)) >= self.long_validation:
            super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and self.progress is not None and self.val_progress_bar_id is not None:
            self.progress.remove_task(self.val_progress_bar_id)
            self.val_progress_bar_id = None
