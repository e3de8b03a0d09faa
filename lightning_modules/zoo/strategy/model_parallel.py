"""Base of the strategies that shard the model over the ranks: FSDP2, tensor and pipeline parallelism."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from lightning_modules.compat.lightning import insert_callback
from lightning_modules.compat.torch import StateDict
from lightning_modules.config.errors import UserError, warn
from lightning_modules.strategy.ddp import CheckedDDP
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.zoo.strategy.sharded_checkpoint import (
    gather,
    read_shards,
    shard_like,
    shard_optimizer_state,
    write_shards,
)


class ModelParallel(CheckedDDP):
    """Shards ``task.model`` over the ranks once it is built and loaded.

    Each rank first builds the full model with equal weights; `shard` then keeps this rank's shard. A checkpoint is one
    plain file, as from one process: any strategy and number of ranks can resume from it. After training every rank has
    the full model again and tests it on its share of the samples.

    Lightning's ModelParallelStrategy is not used: it expects the task to shard the model in a hook, rejects float64,
    starts new processes on CPUs, and numbers optimizer states by the model instead of by parameter group.

    Args:
        sharded_checkpoint: also write a folder ``NAME.shards`` with the shards of all ranks beside each checkpoint
            ``NAME.ckpt``; a run resumes from it if it is of the same step.
        settings: see `CheckedDDP`.

    Raises UserError for settings that need the full model in a step, such as weight penalties; see `check_supported`.
    """

    averages_in_backward_only = False
    forward_communicates = True
    splits_samples = True  # false: all ranks train and validate on the same samples

    def __init__(self, sharded_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.sharded_checkpoint = sharded_checkpoint
        self._unsharded: nn.Module | None = None
        self._synchronised = True  # false between the steps of accumulated gradients

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """Reduce `model` in place to the shard of this rank."""
        raise NotImplementedError

    def check_supported(self, trainer: pl.Trainer) -> None:
        """Raise UserError for settings that do not work with a sharded model."""
        task = trainer.lightning_module
        if not isinstance(getattr(task, "model", None), nn.Module):
            raise UserError(
                f"strategy: {type(self).__name__} shards the network in the attribute 'model' of the task, which "
                f"{type(task).__name__} does not have; use strategy=ddp"
            )
        if callable(
            getattr(task.model, "step", None)
        ):  # an encoder-decoder, whose parts are called outside of its forward
            raise UserError(
                f"strategy: {type(self).__name__} cannot shard a network that decodes in steps; use strategy=ddp"
            )
        if getattr(task, "l1", 0) or getattr(task, "l2", 0):
            raise UserError(
                "task.l1, task.l2: no rank has all weights with this strategy; use optimizer.weight_decay, or strategy=ddp"
            )

    @property
    def _task(self) -> Supervised:
        return cast(Supervised, self.lightning_module)

    def configure_ddp(self) -> None:
        """Shard the model at the point where DDP would wrap it."""
        trainer = self._task.trainer
        self.check_supported(trainer)
        if not dist.is_initialized():
            raise UserError(
                f"strategy: {type(self).__name__} needs a process group; set trainer.devices and start the run again"
            )
        self._unsharded = meta_copy(self._task.model)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        self.shard(self._task.model, mesh)
        if not any(isinstance(callback, _UnshardHook) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            insert_callback(trainer, _UnshardHook())  # before callbacks that read the trained weights

    def gather_model(self) -> dict[str, Tensor]:
        """The full model's state dict on the CPU. A collective: all ranks must call it."""
        return gather(self._task.model.state_dict())

    def unshard(self) -> None:
        """Replace this rank's shard by the full model. A collective: all ranks must call it."""
        if self._unsharded is None:
            return
        state = {name: tensor.to(self.root_device) for name, tensor in self.gather_model().items()}
        self._unsharded.load_state_dict(state, assign=True)
        self._unsharded.train(self._task.model.training)
        self._task.model, self._unsharded = self._unsharded, None

    def on_validation_start(self) -> None:
        """Validate with the buffers of rank 0 on all ranks, as DDP does."""
        super().on_validation_start()
        if self._unsharded is not None:
            for buffer in self._task.model.buffers():
                dist.broadcast(buffer, src=0)

    def bytes_per_backward(self, synchronised: bool) -> int:
        """Bytes that this rank passed to collectives in a forward and backward pass."""
        raise NotImplementedError

    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        self.bytes_counter.sent += self.bytes_per_backward(self._synchronised)

    def teardown(self) -> None:
        """Unshard after a fit without steps; after a failure the other ranks may not be there for a collective."""
        if self._unsharded is not None and self._task.trainer.state.status != TrainerStatus.INTERRUPTED:
            self.unshard()
        super().teardown()

    @property
    def distributed_sampler_kwargs(self) -> StateDict:
        """The share of samples of this rank; for the test it has the full model, so that the samples are always split."""
        if not self.splits_samples and self._task is not None and self._task.trainer.state.fn == TrainerFn.FITTING:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs

    # --- checkpoints -----------------------------------------------------------------------------------------
    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Load weights once the setup has converted the model to the training precision."""
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        now = self._task.state_dict()
        state = {key: shard_like(value, now.get(key)) for key, value in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def lightning_module_state_dict(self) -> StateDict:
        return gather(self._task.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        return gather(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, states in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            optimizer.load_state_dict(shard_optimizer_state(states, parameters))

    def save_checkpoint(self, checkpoint: StateDict, filepath: str | Path, storage_options: object = None) -> None:
        path = Path(self.broadcast(str(filepath)))
        if self.sharded_checkpoint and self._unsharded is not None:
            parts = {**checkpoint, "state_dict": self._task.state_dict()}
            if "optimizer_states" in checkpoint:
                parts["optimizer_states"] = [optimizer.state_dict() for optimizer in self.optimizers]
            write_shards(path.with_suffix(".shards"), parts, self.global_rank, self.world_size, self.barrier)
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> StateDict:
        path = Path(self.broadcast(str(checkpoint_path)))
        plain: StateDict = read_checkpoint(path)
        shards = path.with_suffix(".shards")
        if self.sharded_checkpoint and shards.is_dir():
            try:
                parts = read_shards(shards)
            except UserError as error:  # the plain file holds the same state
                if self.is_global_zero:
                    warn(f"{error}; resuming from {path.name}, which is complete")
                return plain
            if parts["global_step"] == plain["global_step"]:  # else the run ended while one of the two was written
                return parts
        return plain


class _UnshardHook(pl.Callback):
    """Restores the full model before other callbacks read it."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.strategy, ModelParallel):
            trainer.strategy.unshard()


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` with its buffers, but with parameters on the meta device, without storage."""
    memo = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)
