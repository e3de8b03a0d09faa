"""The last checkpoint, from which a run goes on, and the reading of checkpoints without unpickling."""

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lightning_modules.errors import UserError
from lightning_modules.killed import undisturbed


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint with the whole state, ``last.ckpt``; it does not depend on any monitored metric.

    Args:
        every_s: written at the end of an epoch when the one on disk is older than this, and at the end of training.
        dirpath: the folder; the run fills it in.
    """

    def __init__(self, every_s: float = 30.0, dirpath: str | None = None) -> None:
        self.every_s = every_s
        self.dirpath = dirpath
        self._written_at = time.monotonic()

    @property
    def path(self) -> Path:
        """The file."""
        return Path(str(self.dirpath)) / "last.ckpt"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell the callbacks that keep the best weights where their folder is now.

        Where it has moved, Lightning forgets the best score, and the next epoch would pass for the best one.
        """
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
            old, new = state.get("dirpath"), getattr(callback, "dirpath", None)
            if old and new and old != str(new):
                checkpoint["callbacks"][callback.state_key] = _moved(state, old, str(new))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = time.monotonic() - self._written_at >= self.every_s or self._is_over(trainer)
        if trainer.strategy.broadcast(due):
            with undisturbed():
                self._write(trainer)

    def _is_over(self, trainer: Trainer) -> bool:
        last = (
            trainer.max_epochs is not None
            and trainer.max_epochs != -1
            and trainer.current_epoch + 1 >= trainer.max_epochs
        )
        return last or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step

    def _write(self, trainer: Trainer) -> None:
        """Write beside the old file and rename, so that a full disk or a kill leaves the old one whole."""
        for logger in trainer.loggers:  # what the checkpoint goes on from must stand in the store before it
            getattr(logger, "flush", logger.save)()
        temporary = self.path.with_suffix(".tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk its room lets the run be closed
            raise
        if trainer.is_global_zero:
            temporary.replace(self.path)
        trainer.strategy.barrier()
        self._written_at = time.monotonic()


def _moved(value: Any, old: str, new: str) -> Any:
    """Plain values with `new` in place of `old` at the beginning of every path, keys too."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    is_path = isinstance(value, str) and (value == old or value.startswith(f"{old}/"))
    return new + value[len(old) :] if is_path else value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's plain values and tensors. Raises UserError where the file is missing, damaged or holds code."""
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or ["it is empty or cut off"])[0][:200]
        raise UserError(
            f"The checkpoint {path} is damaged or is not one of ours ({path.stat().st_size} bytes): {reason}"
        ) from error
