"""Batches (x, y) or {x, y} of any datamodule: as dicts, and augmented in the training of any task."""

import functools
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.task.rng import derive_seed

Hooks = pl.LightningDataModule | pl.LightningModule


def as_dict(batch: Any) -> dict[str, Tensor]:
    """{x, y, …} of a batch (x, y) or {x, y, …}. Raises UserError for another structure."""
    found = dict(zip("xy", batch, strict=True)) if isinstance(batch, tuple | list) and len(batch) == 2 else batch
    x, y = (found.get(key) for key in "xy") if isinstance(found, Mapping) else (None, None)
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim and y.ndim and len(x) == len(y):
        return dict(found)
    shapes = apply_to_collection(batch, Tensor, lambda tensor: f"Tensor {list(tensor.shape)}")
    raise UserError(
        "data: augmentation, and tasks derived from Supervised, need batches (x, y) or {x, y} of two tensors with a row for "
        f"each sample, but got {str(shapes)[:200]}"
    )


def owner_of(hook: str, data: pl.LightningDataModule, task: Hooks) -> Hooks:
    """The one whose hook for batches Lightning calls: the datamodule, if it has it."""
    return data if is_overridden(hook, data) else task


class AugmentTraining(pl.Callback):
    """Augments the training batches of any task on its device, after the user's own hook ``on_after_batch_transfer``.

    The random numbers depend on (seed, step, rank) only.
    """

    def __init__(self, augmentation: nn.Module, seed: int) -> None:
        self._augmentation, self._seed, self._generator = augmentation, seed, torch.Generator()
        self._started = False  # before, Lightning's model summary passes the example input to the hook

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        owner = owner_of("on_after_batch_transfer", trainer.datamodule, pl_module)  # type: ignore[attr-defined]
        own = type(owner).on_after_batch_transfer

        @functools.wraps(own)
        def hook(batch: object, dataloader_idx: int) -> object:
            batch = own(owner, batch, dataloader_idx)
            return self._augment(trainer, batch) if self._started and trainer.training else batch

        owner.on_after_batch_transfer = hook  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = True

    def _augment(self, trainer: pl.Trainer, batch: Any) -> object:
        step, share = trainer.fit_loop.epoch_loop.total_batch_idx + 1, trainer.distributed_sampler_kwargs or {}
        self._generator.manual_seed(derive_seed(self._seed, step, share.get("rank", 0)))
        found = as_dict(batch)
        changed = self._augmentation.to(found["x"].device)(found, self._generator)
        if isinstance(batch, Mapping):
            return type(batch)({**batch, **changed})  # type: ignore[call-arg]
        return getattr(type(batch), "_make", type(batch))([changed["x"], changed["y"]])  # also a named tuple
