"""What stages read of a LightningModule that is not one of ours: its network's inputs, its batches and its loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.run.named_forward import evaluation_mode
from lightning_modules.task.batches import owner_of
from lightning_modules.task.task_spec import in_precision


def network_inputs(task: pl.LightningModule, module: str, x: Tensor) -> Tensor:
    """What the task's ``forward`` passes to its network for the samples `x`; without a ``forward``, `x` itself.

    Raises UserError unless that is one tensor, in one call.
    """
    if not is_overridden("forward", task):
        return x
    calls: list[tuple[object, ...]] = []
    handle = task.get_submodule(module).register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((*args, *kwargs.values())), with_kwargs=True, prepend=True
    )
    try:
        given = in_precision(task, x).to(task.device)
        with evaluation_mode(task):
            task(given)
    except Exception as error:  # the code of a user
        reason = f"for inputs of shape {list(x.shape)}: {type(error).__name__}: {error}"
        raise UserError(f"compression: forward of the task fails {reason}") from error
    finally:
        handle.remove()
    if len(calls) != 1 or len(calls[0]) != 1 or not isinstance(calls[0][0], Tensor):
        found = f"{len(calls)} calls, with {', '.join(str(len(call)) for call in calls) or 'no'} inputs"
        raise UserError(f"compression.module={module}: expected one call in forward, with one tensor; found {found}")
    return calls[0][0].to(x.device)


def example_inputs(task: pl.LightningModule) -> Tensor:
    """At least two samples: exporters take a batch size of 1 for a constant."""
    x: Any = task.example_input_array  # `contracts` requires a tensor
    return x if len(x) > 1 else torch.cat([x, x])


def training_batches(task: pl.LightningModule, data: pl.LightningDataModule, seed: int) -> Iterator[PlainDict]:
    """The batches of the training loader in an order that depends on the seed alone, each with its samples as ``x``."""
    pl.seed_everything(seed, workers=True, verbose=False)  # as before the training: `setup` may draw a split
    data.prepare_data()
    data.setup("fit")
    loaders = owner_of("train_dataloader", data, task).train_dataloader()
    for batch, *_ in CombinedLoader(loaders, "min_size"):
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):  # not augmented
            batch = getattr(owner_of(hook, data, task), hook)(batch, 0)
        yield {"x": samples_of(batch), "batch": batch}


def samples_of(batch: object) -> Tensor:
    """The ``x`` of a batch, else its first tensor. Raises UserError if there is none."""
    found: list[Tensor] = []
    apply_to_collection(batch["x"] if isinstance(batch, Mapping) and "x" in batch else batch, Tensor, found.append)
    if found:
        return found[0]
    raise UserError(f"compression: a training batch ({type(batch).__name__}) has no tensor to calibrate with")


def detached_copy(task: pl.LightningModule) -> pl.LightningModule:
    """A copy without its trainer, so that its steps log nothing and change nothing of the task."""
    with evaluation_mode(task):
        copied = deepcopy(task)
    return copied.train(task.training)


def training_loss(task: pl.LightningModule, batch: object) -> Tensor:
    """The loss that ``training_step`` returns."""
    step: Any = task.training_step(task.transfer_batch_to_device(batch, task.device, 0), 0)
    return step["loss"] if isinstance(step, Mapping) else step


class FirstBatchCheck(pl.Callback):
    """Raises UserError before the first step if a stage would fail after the training."""

    def __init__(self, stages: Sequence[Any], preprocess: Callable[[Tensor], Tensor]) -> None:
        self.stages, self.preprocess = stages, preprocess

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, index: int
    ) -> None:
        if trainer.global_step:
            return
        if trainer.num_training_batches == float("inf") and any(stage.epochs for stage in self.stages):
            raise UserError("compression: the training loader has no length; set trainer.limit_train_batches=N")
        if any(getattr(stage, "samples", 0) for stage in self.stages):
            self.preprocess(samples_of(batch))  # as calibration does
