"""Pipeline parallelism: each rank has one part of the network; batches pass through in microbatches.

Longer than 200 lines: the strategy with its checks and its checkpoints.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from lightning_modules.compat.lightning import replace_clip_by_norm, restore_clip_by_norm
from lightning_modules.compat.torch import StateDict, is_compiled, replace_forward
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_hooks import gather_on_rank_zero
from lightning_modules.strategy.comm_stats import CommStats
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.strategy.model_parallel import ModelParallel
from lightning_modules.zoo.strategy.pipeline_partition import drop_other_parts, partition
from lightning_modules.zoo.strategy.pipeline_schedule import PipelineExecutor, attach_gradients


class Pipeline(ModelParallel):
    """Consecutive parts of the network on the ranks, which all see the same samples.

    Huang et al. 2019, "GPipe", section 2; Narayanan et al. 2019, "PipeDream", section 3.2, with a flush after each batch
    (1F1B); torch's ``PipelineStage`` and schedules over the parts of `partition`. The other ranks' parts take no memory and no
    optimizer state. Equal to one process with the full network, except for

    - batch norm: statistics are per microbatch, and running statistics are updated once per microbatch;
    - dropout: each rank draws its own masks, and parts of equal shapes draw equal ones.

    Args:
        microbatches: per batch; a batch that is not divisible, such as the last of an epoch, is split into the next
            smaller number that divides it. ``data.batch_size`` must be a multiple.
        schedule: ``gpipe``: all microbatches forward, then all backward; ``1f1b``: backward as soon as possible, so that
            a rank stores activations of as many microbatches as there are ranks, not of all of them.
        balance: see `partition`.
        settings: see `ModelParallel`.

    Raises UserError for networks that are not a chain, losses that are not a mean over samples, and features that need
    all weights.
    """

    splits_samples = False

    @bounded
    def __init__(
        self,
        microbatches: Count = 4,
        schedule: Literal["gpipe", "1f1b"] = "gpipe",
        balance: Literal["operations", "parameters"] = "operations",
        **settings: Any,
    ) -> None:
        if settings.get("sharded_checkpoint"):
            raise UserError("strategy.sharded_checkpoint: not supported with strategy=pipeline; set it to false")
        super().__init__(**settings)
        self.microbatches, self.schedule, self.balance = microbatches, schedule, balance
        self._owner: dict[str, int] = {}  # rank by state dict key
        self._pending = 0.0

    # --- unsupported settings ---------------------------------------------------------------------------------
    def check_supported(self, trainer: pl.Trainer) -> None:
        super().check_supported(trainer)
        task, size = self._task, self._task.batch_size
        if size % self.microbatches:
            raise UserError(f"strategy.microbatches={self.microbatches} does not divide data.batch_size={size}")
        if self.schedule == "1f1b" and self.microbatches < self.world_size:
            raise UserError(
                f"strategy.microbatches={self.microbatches}: schedule=1f1b needs at least one for each of the "
                f"{self.world_size} processes; or use schedule=gpipe"
            )
        for name in ("forward", "training_loss"):  # weight penalties, losses on more than outputs
            if getattr(type(task), name) is not getattr(Supervised, name):
                raise UserError(
                    f"task: {type(task).__name__} needs the full network in a step, which no rank has with "
                    "strategy=pipeline; use strategy=ddp"
                )
        if any(isinstance(callback, pl.callbacks.WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError("callbacks.ema: no rank has all weights with strategy=pipeline; use strategy=ddp")
        if is_compiled(task.model):
            raise UserError("compile=true: not supported with strategy=pipeline; use compile=false, or strategy=ddp")

    # --- the parts -------------------------------------------------------------------------------------------
    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        parts = partition(model, self._example(), mesh.size(), self.balance)
        self._owner = {name: rank for rank, part in enumerate(parts) for name in part.state_dict()}
        part = parts[self.global_rank]
        drop_other_parts(model, part)
        ranks = (self.global_rank, mesh.size(), self.root_device)
        self._pass = PipelineExecutor(part, *ranks, self.microbatches, self.schedule)
        replace_forward(model, self._pass.outputs)
        self._task.outputs_and_loss = self._outputs_and_loss  # type: ignore[method-assign]
        replace_clip_by_norm(self.precision_plugin, self._clip_by_norm)

    def _example(self) -> Tensor:
        """Two preprocessed samples."""
        task = self._task
        data: Any = task.trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        raw = data.example(2).to(self.root_device)
        with torch.no_grad(), self.precision_plugin.forward_context():
            example: Tensor = task.preprocess(self.precision_plugin.convert_input(raw))
        return example

    def unshard(self) -> None:
        if self._unsharded is not None:
            del self._task.outputs_and_loss
            restore_clip_by_norm(self.precision_plugin)
        super().unshard()

    # --- a step ----------------------------------------------------------------------------------------------
    def _outputs_and_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As in `Supervised`, with gradients already computed; backward from the loss assigns them to the weights."""
        task = self._task
        if "mix_partner" in batch:
            raise UserError(
                "augmentation: strategy=pipeline cannot mix hidden activations, since partners are in other microbatches; "
                "use a transform that mixes inputs"
            )
        target = task.loss_target(batch)
        done = self._pass.step(task.preprocess(batch["x"]), target, task.loss)
        self._pending += done.sent
        with torch.no_grad():
            loss = task.loss(done.outputs, target)
        done.check_loss_is_mean(float(loss))
        loss, outputs = attach_gradients(loss, done)
        return outputs, loss

    def _clip_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip by the total norm over the parts of all ranks."""
        mine = [p for p in self.precision_plugin.main_params(optimizer) if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in mine if p.grad is not None])
        square = norm.square().to(self.root_device)
        dist.all_reduce(square)
        torch.nn.utils.clip_grads_with_norm_(mine, clip_val, square.sqrt())

    def bytes_per_backward(self, synchronised: bool) -> int:
        """Activations, their gradients and outputs of the batch: the mean over the ranks."""
        sent, self._pending = round(self._pending), 0.0
        return sent

    def on_validation_start(self) -> None:
        CommStats.on_validation_start(self)  # each buffer has one owner: nothing to broadcast

    # --- checkpoints -----------------------------------------------------------------------------------------
    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        super().setup_optimizers(trainer)  # type: ignore[no-untyped-call, unused-ignore]
        for optimizer in self.optimizers:
            drop_meta_states(optimizer)

    def gather_model(self) -> dict[str, Tensor]:
        return gather_tensors(self._task.model.state_dict(), self._owner, self.root_device)

    def lightning_module_state_dict(self) -> StateDict:
        state: StateDict = self._task.state_dict()
        if self._unsharded is None:
            return state
        return {**state, **{f"model.{name}": tensor for name, tensor in self.gather_model().items()}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        bare = {key for key, value in self._task.state_dict().items() if value.is_meta}
        state = {key: v.to("meta") if key in bare else v for key, v in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        return gather_optimizer_state(optimizer)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, states in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict({**states, "state": local_optimizer_states(optimizer, states["state"])})


def gather_tensors(state: Mapping[str, Tensor], owner: Mapping[str, int], device: torch.device) -> dict[str, Tensor]:
    """Each tensor of `state` from its owner, on the CPU of all ranks. A collective: all ranks must call it."""
    gathered = {}
    for name, tensor in state.items():
        source = owner.get(name, 0)  # tensors that no part uses are equal on all ranks
        mine = source == dist.get_rank()
        sent = (tensor.detach() if mine else torch.empty_like(tensor, device=device)).contiguous()
        dist.broadcast(sent, src=source)
        gathered[name] = sent.to("cpu", copy=True)
    return gathered


def gather_optimizer_state(optimizer: Optimizer) -> StateDict:
    """On rank 0 the states of all ranks, numbered as in one process; on other ranks their own states."""
    plain: StateDict = optimizer.state_dict()
    mine = local_optimizer_states(optimizer, plain["state"])
    together = {n: state for part in gather_on_rank_zero(mine) or [mine] for n, state in part.items()}
    return {**plain, "state": dict(sorted(together.items()))}


def local_optimizer_states(optimizer: Optimizer, states: Mapping[int, object]) -> dict[int, object]:
    """The states of the parameters that this rank has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {n: states[n] for n, parameter in enumerate(parameters) if n in states and not parameter.is_meta}


def drop_meta_states(optimizer: Optimizer) -> None:
    """Drop states that an optimizer such as Adagrad created for parameters of other ranks."""
    for parameter in [p for p in optimizer.state if p.is_meta]:
        del optimizer.state[parameter]
