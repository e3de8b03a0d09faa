"""Models that no rank holds whole while they train: what FSDP2 and tensor parallelism share."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lightning_modules.compat.lightning import insert_callback
from lightning_modules.errors import UserError
from lightning_modules.strategy.ddp import CheckedDDP
from lightning_modules.strategy.faults import say
from lightning_modules.strategy.sharded import read_shards, spread_like, spread_states, whole, write_shards
from lightning_modules.tracking.checkpoint import read_checkpoint


class ModelParallel(CheckedDDP):
    """What the strategies share that spread ``task.model`` over the ranks once it is built and loaded.

    Each rank builds the whole model first, with equal weights; `spread` then leaves it its part. A checkpoint is one
    plain file, as of one process: any strategy and any number of ranks goes on from it. When training ends the model
    is whole again on every rank; it is tested so, each rank on its share of the samples.

    Lightning's own ModelParallelStrategy is not used: it wants the model spread in a hook of the task, refuses
    float64, starts new processes on CPUs, and numbers an optimizer's states by the model, not by its groups.

    Args:
        sharded_checkpoint: write beside each checkpoint ``NAME.ckpt`` a folder ``NAME.shards`` with the parts of all
            ranks; from it, where it is of the same step, a run goes on.
        start_method, timeout_s, threads: as in `CheckedDDP`.

    Raises UserError for what needs the whole model in a step: penalties on weights, and what `refuse` says.
    """

    takes_many_steps = False

    forward_waits = True

    def __init__(self, sharded_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.sharded_checkpoint = sharded_checkpoint
        self._skeleton: nn.Module | None = None
        self._synchronised = True  # false between the steps of accumulated gradients

    def spread(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """Leave this rank its part of `model`, in place."""
        raise NotImplementedError

    def refuse(self, trainer: Any) -> None:
        """Raise UserError for settings that cannot be followed with a spread model."""
        task = trainer.lightning_module
        if getattr(task, "l1", 0) or getattr(task, "l2", 0):
            raise UserError(
                "task.l1, task.l2: no rank holds all weights with this strategy; use optimizer.weight_decay, or strategy=ddp"
            )

    @property
    def _task(self) -> Any:
        return self.lightning_module

    def configure_ddp(self) -> None:
        """Spread the model, where DDP would wrap it."""
        trainer = self._task.trainer
        self.refuse(trainer)
        if not dist.is_initialized():
            raise UserError(
                f"strategy: {type(self).__name__} needs a process group; give trainer.devices and start it anew"
            )
        self._skeleton = skeleton(self._task.model)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        self.spread(self._task.model, mesh)
        if not any(isinstance(callback, _Whole) for callback in trainer.callbacks):
            insert_callback(trainer, _Whole())  # before those that look at the trained weights

    def whole_model(self) -> dict[str, Tensor]:
        """The state of the whole model, on the CPU. All ranks must call it."""
        state: dict[str, Tensor] = whole(self._task.model.state_dict())
        return state

    def make_whole(self) -> None:
        """Put the whole model in the place of this rank's part. All ranks must call it."""
        if self._skeleton is None:
            return
        state = {name: tensor.to(self.root_device) for name, tensor in self.whole_model().items()}
        self._skeleton.load_state_dict(state, assign=True)
        self._skeleton.train(self._task.model.training)
        self._task.model, self._skeleton = self._skeleton, None

    def on_validation_start(self) -> None:
        """All ranks measure with the buffers of the first one, as with DDP."""
        super().on_validation_start()
        if self._skeleton is not None:
            for buffer in self._task.model.buffers():
                dist.broadcast(buffer, src=0)

    def bytes_of_backward(self, synchronised: bool) -> int:
        """Payload that this rank has given to collectives in a forward and backward pass."""
        raise NotImplementedError

    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        self.traffic.add(self.bytes_of_backward(self._synchronised))

    def teardown(self) -> None:
        """A training of no step ends here; one that failed leaves the others where they are, as they may wait."""
        if self._skeleton is not None and self._task.trainer.state.status != TrainerStatus.INTERRUPTED:
            self.make_whole()
        super().teardown()

    # --- checkpoints -----------------------------------------------------------------------------------------
    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are loaded in the precision of training, which the setup brings."""
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        now = self._task.state_dict()
        state = {key: spread_like(value, now.get(key)) for key, value in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = whole(self._task.state_dict())
        return state

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state: dict[str, Any] = whole(super().optimizer_state(optimizer))
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, states in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            optimizer.load_state_dict(spread_states(states, parameters))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(self.broadcast(str(filepath)))
        if self.sharded_checkpoint and self._skeleton is not None:
            parts = {**checkpoint, "state_dict": self._task.state_dict()}
            if "optimizer_states" in checkpoint:
                parts["optimizer_states"] = [optimizer.state_dict() for optimizer in self.optimizers]
            write_shards(path.with_suffix(".shards"), parts, self.global_rank, self.world_size, self.barrier)
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(str(checkpoint_path)))
        plain: dict[str, Any] = read_checkpoint(path)
        shards = path.with_suffix(".shards")
        if self.sharded_checkpoint and shards.is_dir():
            try:
                parts = read_shards(shards)
            except UserError as error:  # the plain file holds the same
                if self.is_global_zero:
                    say(f"{error}; the run goes on from {path.name}, which is whole")
                return plain
            if parts["global_step"] == plain["global_step"]:  # else one of the two was being written at the end
                return parts
        return plain


class _Whole(pl.Callback):
    """Makes the model whole before other callbacks look at it."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, ModelParallel):
            strategy.make_whole()


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of `model` whose parameters take no memory; its buffers are copied."""
    memo = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)
