"""Callbacks that make one rank fail or wait, once: only where their file is not there yet."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from lightning_modules.config.errors import UserError


class FailOnce(pl.Callback):
    """Does one harm to `rank` in the middle of epoch `at`."""

    def __init__(self, folder: str, harm: str, rank: int = 1, at: int = 2) -> None:
        self.mark, self.harm, self.rank, self.at = Path(folder) / "done", harm, rank, at

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        here = trainer.global_rank == self.rank and (trainer.current_epoch, batch_idx) == (self.at, 1)
        if here and not self.mark.exists():
            self.mark.touch()
            getattr(self, self.harm)(pl_module, batch)

    def die(self, pl_module: pl.LightningModule, batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def poison(self, pl_module: pl.LightningModule, batch: Any) -> None:
        for parameter in pl_module.parameters():
            nn.init.constant_(parameter, float("nan"))
            return

    def mistake(self, pl_module: pl.LightningModule, batch: Any) -> None:
        raise UserError("data.root=/there: this file is on one machine alone")

    def fault(self, pl_module: pl.LightningModule, batch: Any) -> None:
        raise KeyError("no such key")


class SlowRank(pl.Callback):
    """Has `rank` wait before each batch."""

    def __init__(self, seconds: float, rank: int = 1) -> None:
        self.seconds, self.rank = seconds, rank

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank:
            time.sleep(self.seconds)


class FewerBatches(pl.Callback):
    """Leaves the last rank fewer samples than the others."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.global_rank == 1:
            data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
            data.splits["train"] = data.splits["train"][:40]
