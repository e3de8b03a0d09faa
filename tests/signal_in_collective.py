"""A callback that ends its run in the middle of what all ranks do together."""

import os
import signal
import time

import pytorch_lightning as pl


class SignalDuringCollective(pl.Callback):
    """Sends SIGTERM to rank 0 while the other ranks wait for it in the collective at the end of an epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_rank == 0 and trainer.current_epoch == 1:
            time.sleep(1.0)  # until the others are there
            os.kill(os.getpid(), signal.SIGTERM)
