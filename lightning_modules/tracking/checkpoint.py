"""Checkpoints: the last one for resuming, and verified reading and writing without unpickling."""

import time
from collections.abc import Mapping
from pathlib import Path

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.errors import UserError
from lightning_modules.config.moved_names import update_callback_states
from lightning_modules.config.signals import defer_signals
from lightning_modules.model.checksum import load_verified, save_with_checksum


class BestCheckpoint(ModelCheckpoint):
    """The run's own ModelCheckpoint, a type of its own: those that a module configures would replace it."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` with the full training state, independent of any monitored metric.

    Args:
        every_s: written at the end of an epoch if the file is older than this, and at the end of training.
        dirpath: the folder; set by the run.
    """

    def __init__(self, every_s: float = 30.0, dirpath: str | None = None) -> None:
        self.every_s = every_s
        self.dirpath = dirpath
        self._written_at = time.monotonic()

    @property
    def path(self) -> Path:
        """The file."""
        return Path(str(self.dirpath)) / "last.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after all other callbacks, also those of a module: the file has their state of the same epoch."""
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]  # type: ignore[attr-defined]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: StateDict) -> None:
        """Update the folder in the state of the callbacks that save the best weights.

        If the folder has moved, Lightning resets the best score, and the next epoch would count as the best.
        """
        for callback in trainer.checkpoint_callbacks:
            states = checkpoint.get("callbacks", {})
            earlier = states.get(callback.state_key.replace("BestCheckpoint", "ModelCheckpoint"), {})
            state = states.setdefault(callback.state_key, earlier) if earlier else states.get(callback.state_key, {})
            old, new = state.get("dirpath"), getattr(callback, "dirpath", None)
            if old and new and old != str(new):
                checkpoint["callbacks"][callback.state_key] = _moved(state, old, str(new))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = time.monotonic() - self._written_at >= self.every_s or self._is_over(trainer)
        if trainer.strategy.broadcast(due):
            with defer_signals():
                self._write(trainer)

    def _is_over(self, trainer: Trainer) -> bool:
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs  # -1: no limit
        last = 0 <= epochs <= trainer.current_epoch + 1
        return last or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step

    def _write(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:  # training resumes after these metrics, so they must be stored
            getattr(logger, "persist", logger.save)()
        trainer.save_checkpoint(self.path)
        self._written_at = time.monotonic()


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically with a checksum, and verifies them before loading.

    Remote paths (``s3://…``) are handled by Lightning. Hyper-parameters that are objects are left out, since a checkpoint
    is read without unpickling.

    Args:
        extra: plain values that are added to each checkpoint.
    """

    def __init__(self, extra: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._extra = extra or {}

    def save_checkpoint(self, checkpoint: StateDict, path: str | Path, storage_options: object = None) -> None:
        checkpoint = {**checkpoint, **self._extra}
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key], _ = plain_hyperparameters(checkpoint[key])
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_with_checksum(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> StateDict:
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=weights_only)
        return read_checkpoint(Path(path))


def plain_hyperparameters(values: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The hyper-parameters that a checkpoint can hold as plain values, and the names of the others."""
    kept = {key: value for key, value in values.items() if _is_plain(value)}
    return kept, [key for key in values if key not in kept]


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(
            isinstance(key, str | int) and _is_plain(item) for key, item in value.items()
        )
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, Tensor)


def _moved(value: object, old: str, new: str) -> object:
    """Replace `old` by `new` at the beginning of every path in plain values, including keys."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    is_path = isinstance(value, str) and (value == old or value.startswith(f"{old}/"))
    return new + str(value)[len(old) :] if is_path else value


def call_load_hook(task: LightningModule, checkpoint: StateDict, where: str) -> None:
    """Call ``on_load_checkpoint``, with the entries that the task saved. Raises UserError if one is missing.

    Layers that ``configure_model`` makes are made first, as ``load_from_checkpoint`` does.
    """
    if task.state_dict().keys() != checkpoint["state_dict"].keys():
        task.configure_model()
    try:
        task.on_load_checkpoint(dict(checkpoint))
    except KeyError as error:
        raise UserError(f"{where} has no entry {error}, which on_load_checkpoint of the task reads") from error


def read_checkpoint(path: Path, ours: bool = True) -> StateDict:
    """Verify a checkpoint and load its plain values and tensors. `ours`: whether a checksum is expected.

    Raises UserError if the file is missing, damaged, truncated, or contains code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        loaded = load_verified(path, ours)
    except MemoryError as error:
        raise UserError(f"checkpoint {path} does not fit into memory: {error}") from error
    except Exception as error:  # torch raises many types
        reason = (str(error).splitlines() or ["it is empty or truncated"])[0][:200]
        size = f"{path.stat().st_size:,} bytes"
        raise UserError(f"checkpoint {path} is damaged, or not a checkpoint of a run ({size}): {reason}") from error
    update_callback_states(loaded)
    return loaded
