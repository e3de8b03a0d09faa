"""Training as ``train.py`` does it, timed from within."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM_UP = 2  # epochs that do not count
MEASURED: dict[str, Any] = {}  # what `clock` saw of the last run


def train(choice: Sequence[str]) -> None:
    """Run what ``train.py`` runs, timed by `clock`, recorded in the store of this benchmark."""
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        run(compose_run([*choice, "+callbacks.clock._target_=benchmarks.loop.clock"]))


def clock() -> Any:
    """A callback that times training from the start of an epoch to the end of the last, its points stored."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == MEASURED.get("from_epoch", WARM_UP):
                MEASURED["start"] = time.process_time(), time.perf_counter()

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.logger is not None:
                trainer.logger.finalize("success")
            cpu, wall = MEASURED["start"]
            MEASURED.update(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
            model: Any = pl_module.model
            MEASURED["weights"] = {key: value.clone() for key, value in model.state_dict().items()}

    return Clock()
