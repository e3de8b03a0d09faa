"""Pipeline parallelism: each rank has the layers of one part of the network, and batches pass through in pieces."""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_modules.compat.lightning import replace_clip_by_norm, restore_clip_by_norm
from lightning_modules.compat.torch import is_compiled, replace_forward
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.strategy.comm_stats import CommStats
from lightning_modules.strategy.model_parallel import ModelParallel
from lightning_modules.strategy.pipeline_partition import drop_other_parts, partition
from lightning_modules.strategy.pipeline_schedule import PipelineExecutor, attach_gradients
from lightning_modules.strategy.pipeline_state import (
    drop_meta_states,
    gather_optimizer_state,
    gather_tensors,
    local_optimizer_states,
)
from lightning_modules.task.supervised import Supervised

SCHEDULES = ("gpipe", "1f1b")


class Pipeline(ModelParallel):
    """Consecutive parts of the network on the ranks, which all see the same samples.

    Huang et al. 2019, "GPipe", section 2; Narayanan et al. 2019, "PipeDream", section 3.2, with a flush after each batch
    (1F1B); torch's ``PipelineStage`` and schedules over the parts of `cut`. The weights of the other ranks' parts take
    no memory, and no optimizer state. Equal to one process that has the whole network, but for

    - batch norm, which takes its statistics over a microbatch; running statistics move once for each of them;
    - dropout: each rank draws on its own, and parts of equal shapes draw equal masks.

    Args:
        microbatches: pieces of a batch; a batch that they do not divide, as the last of an epoch may be, is cut into
            the next smaller number that does. ``data.batch_size`` must be a multiple.
        schedule: ``gpipe``: all microbatches forward, then all backward; ``1f1b``: backward as soon as possible, so that
            a rank keeps the activations of as many microbatches as there are ranks, not of all of them.
        balance: what the parts are to have alike, see `cut`.
        settings: of `ModelParallel`.

    Raises UserError for networks that are no chain, losses that are no mean over samples, and what needs all weights.
    """

    def __init__(
        self,
        microbatches: int = 4,
        schedule: Literal["gpipe", "1f1b"] = "gpipe",
        balance: Literal["operations", "parameters"] = "operations",
        **settings: Any,
    ) -> None:
        if schedule not in SCHEDULES:
            raise UserError(f"strategy.schedule={schedule}: {suggest(str(schedule), SCHEDULES)}")
        if microbatches < 1:
            raise UserError(f"strategy.microbatches={microbatches}: it must be 1 or more")
        if settings.get("sharded_checkpoint"):
            raise UserError("strategy.sharded_checkpoint: a pipeline writes plain checkpoints alone; leave it false")
        super().__init__(**settings)
        self.microbatches, self.schedule, self.balance = microbatches, schedule, balance
        self._owner: dict[str, int] = {}  # rank by the name of a tensor in the network's state
        self._pending = 0.0

    # --- what cannot be followed -----------------------------------------------------------------------------
    def check_supported(self, trainer: Any) -> None:
        super().check_supported(trainer)
        task, size = self._task, self._task.batch_size
        if size % self.microbatches:
            raise UserError(f"strategy.microbatches={self.microbatches} does not divide data.batch_size={size}")
        if self.schedule == "1f1b" and self.microbatches < self.world_size:
            raise UserError(
                f"strategy.microbatches={self.microbatches}: schedule=1f1b needs one for each of the {self.world_size} "
                "processes at least; or schedule=gpipe"
            )
        for name in ("forward", "training_loss"):  # penalties on weights, networks that are asked for more than outputs
            if getattr(type(task), name) is not getattr(Supervised, name):
                raise UserError(
                    f"task: {type(task).__name__} needs the whole network in a step, which no rank has with "
                    "strategy=pipeline; use strategy=ddp"
                )
        if any(isinstance(callback, pl.callbacks.WeightAveraging) for callback in trainer.callbacks):
            raise UserError("callbacks.ema: no rank holds all weights with strategy=pipeline; use strategy=ddp")
        if is_compiled(task.model):
            raise UserError(
                "compile=true: the parts of a pipeline are not compiled; use compile=false, or strategy=ddp"
            )

    # --- the parts -------------------------------------------------------------------------------------------
    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        parts = partition(model, self._example(), mesh.size(), self.balance)
        self._owner = {name: rank for rank, part in enumerate(parts) for name in part.state_dict()}
        part = parts[self.global_rank]
        drop_other_parts(model, part)
        ranks = (self.global_rank, mesh.size(), self.root_device)
        self._pass = PipelineExecutor(part, *ranks, self.microbatches, self.schedule)
        replace_forward(model, self._pass.outputs)
        self._task.outputs_and_loss = self._outputs_and_loss
        replace_clip_by_norm(self.precision_plugin, self._clip_by_norm)

    def _example(self) -> Tensor:
        """Two samples as the network reads them."""
        task = self._task
        raw = task.trainer.datamodule.example(2).to(self.root_device)
        with torch.no_grad(), self.precision_plugin.forward_context():
            example: Tensor = task.preprocess(self.precision_plugin.convert_input(raw))
        return example

    def unshard(self) -> None:
        if self._unsharded is not None:
            del self._task.outputs_and_loss
            restore_clip_by_norm(self.precision_plugin)
        super().unshard()

    # --- a step ----------------------------------------------------------------------------------------------
    def _outputs_and_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As of `Supervised`, with all gradients computed already; backward from the loss puts them into the weights."""
        task = self._task
        if "mix_partner" in batch:
            raise UserError(
                "augmentation: strategy=pipeline cannot mix inside of the network, partners are in other microbatches; "
                "use a transform that mixes the samples themselves"
            )
        target = task.loss_target(batch)
        done = self._pass.step(task.preprocess(batch["x"]), target, task.loss)
        self._pending += done.sent
        with torch.no_grad():
            loss = task.loss(done.outputs, target)
        done.check_loss_is_mean(float(loss))
        loss, outputs = attach_gradients(loss, done)
        return outputs, loss

    def _clip_by_norm(self, optimizer: Any, clip_val: float) -> None:
        """As of Lightning, by the norm over the parts of all ranks."""
        mine = [p for p in self.precision_plugin.main_params(optimizer) if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in mine if p.grad is not None])
        square = norm.square().to(self.root_device)
        dist.all_reduce(square)
        torch.nn.utils.clip_grads_with_norm_(mine, clip_val, square.sqrt())

    def bytes_per_backward(self, synchronised: bool) -> int:
        """Activations, their gradients and outputs of the batch: the mean over the ranks, which send unlike amounts."""
        sent, self._pending = round(self._pending), 0.0
        return sent

    def on_validation_start(self) -> None:
        CommStats.on_validation_start(self)  # each buffer has one owner: there is nothing to make equal

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """In training and validation one share for all ranks; tested is the whole model, on a share for each."""
        if self._task is not None and self._task.trainer.state.fn == TrainerFn.FITTING:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs

    # --- checkpoints -----------------------------------------------------------------------------------------
    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)  # type: ignore[no-untyped-call, unused-ignore]
        for optimizer in self.optimizers:
            drop_meta_states(optimizer)

    def gather_model(self) -> dict[str, Tensor]:
        return gather_tensors(self._task.model.state_dict(), self._owner, self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._task.state_dict()
        if self._unsharded is None:
            return state
        return {**state, **{f"model.{name}": tensor for name, tensor in self.gather_model().items()}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        bare = {key for key, value in self._task.state_dict().items() if value.is_meta}
        state = {key: v.to("meta") if key in bare else v for key, v in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return gather_optimizer_state(optimizer)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, states in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict({**states, "state": local_optimizer_states(optimizer, states["state"])})
