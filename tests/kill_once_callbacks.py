"""Callbacks that kill a rank in one attempt of a run, and hold it where somebody else is to disturb it."""

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch


class KillOnce(pl.Callback):
    """Kills rank `rank` at the first step of epoch `at`, as the system does when memory is short; never a second time.

    Args:
        mark: a file that is made when it has happened.
    """

    def __init__(self, mark: str, rank: int = 1, at: int = 2) -> None:
        self.mark, self.rank, self.at = Path(mark), rank, at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, _: int) -> None:
        if trainer.global_rank == self.rank and trainer.current_epoch == self.at and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class BlockOnce(pl.Callback):
    """Waits at the first step of epoch `at` until somebody ends the process; never a second time.

    Args:
        mark: a file that is made when it waits.
    """

    def __init__(self, mark: str, at: int = 2) -> None:
        self.mark, self.at = Path(mark), at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, _: int) -> None:
        if trainer.global_rank == 0 and trainer.current_epoch == self.at and not self.mark.exists():
            self.mark.touch()
            while True:
                time.sleep(0.02)


class KillDuringBuild(pl.Callback):
    """Kills its process while the run is still being built; never a second time."""

    def __init__(self, mark: str) -> None:
        if os.environ["RANK"] == "1" and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class StopOnce(pl.Callback):
    """Ends the process as a batch system does, in epoch 1 of the first run; `mark` is a file that is then made.

    Args:
        batch: the number of the batch before which it happens.
    """

    def __init__(self, mark: str, batch: int = 0) -> None:
        self.mark, self.batch = Path(mark), batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == self.batch and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGTERM)


class SaveWeights(pl.Callback):
    """Writes the weights of each rank at the end of the training to ``RANK.pt`` in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")
