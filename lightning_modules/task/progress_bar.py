"""Lightning's rich progress bar, cheap enough for very short epochs."""

from collections.abc import Sequence

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar

from lightning_modules.compat.lightning import train_description


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
