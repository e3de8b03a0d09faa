"""Base of local SGD, DiLoCo and asynchronous averaging: ranks train independently between synchronizations.

Longer than 200 lines: the steps, what is validated and saved of them, and what they exclude are one class.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from annotated_types import Ge
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.lightning import Launcher, insert_callback
from lightning_modules.compat.torch import StateDict, set_ddp_sync
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_hooks import gather_on_rank_zero, to_cpu
from lightning_modules.strategy.ddp import CheckedDDP

CHECKPOINT_KEY = "local_steps"


def flatten_by_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors into one vector per dtype, in order of each dtype's first appearance."""
    return [torch.cat([t.detach().reshape(-1) for t in group]) for group in _by_dtype(tensors)]


@torch.no_grad()
def unflatten_into(tensors: Sequence[Tensor], vectors: Sequence[Tensor]) -> None:
    """Copy the vectors of `flatten_by_dtype` back into such tensors."""
    for group, vector in zip(_by_dtype(tensors), vectors, strict=True):
        for tensor, part in zip(group, vector.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


class LocalSteps(CheckedDDP):
    """Every rank steps with its own gradients; every `period` steps `end_period` synchronizes the ranks.

    The mean of the ranks' weights and floating-point buffers (batch norm statistics) is validated, checkpointed and kept
    when training ends. After a validation or checkpoint each rank continues with its own weights, so that their frequency
    does not change the training. Optimizer states and, between evaluations, buffers stay local. A full checkpoint holds
    the weights and optimizer state of each rank: resuming is bit-identical to an uninterrupted run. Another number of
    processes resumes from the mean weights and the optimizer state of rank 0.

    Args:
        period: optimizer steps between two synchronizations, H.
        synchronous_steps: number of first steps with averaged gradients, as in DDP.
        ddp: see `CheckedDDP`.

    Raises UserError for settings out of range, and for features that need equal weights on all ranks at every step.
    """

    averages_in_backward_only = False
    syncs_buffers = False

    @bounded
    def __init__(self, period: Count = 8, synchronous_steps: Annotated[int, Ge(0)] = 0, **ddp: Any) -> None:
        super().__init__(**ddp)
        self.period, self.synchronous_steps = period, synchronous_steps
        self._diverged = False  # whether the ranks are training, each with its own weights
        self._local: list[Tensor] | None = None  # this rank's tensors while the mean replaces them

    # --- what an algorithm defines ---------------------------------------------------------------------------
    @abstractmethod
    def end_period(self, step: int) -> None:
        """Synchronize the ranks after `step` optimizer steps, the last of a period."""

    def after_local_step(self, step: int) -> None:
        """Called after every local step, before `end_period`."""

    def shared_state(self) -> StateDict:
        """State for the checkpoint, beyond weights and optimizer, that is equal on all ranks."""
        return {}

    def load_shared_state(self, state: StateDict) -> None:
        """Restore it."""

    def local_state(self) -> StateDict:
        """State for the checkpoint, beyond weights and optimizer, that differs between ranks."""
        return {}

    def load_local_state(self, state: StateDict) -> None:
        """Restore it, on the same number of processes."""

    # --- the steps -------------------------------------------------------------------------------------------
    def configure_ddp(self) -> None:
        if self.synchronous_steps:  # else no gradient is ever sent, so nothing needs wrapping
            super().configure_ddp()

    def optimizer_step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], object],
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> object:
        assert self.lightning_module is not None
        done = self.lightning_module.global_step
        local = done >= self.synchronous_steps
        if isinstance(self.model, DistributedDataParallel):
            set_ddp_sync(self.model, not local)
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        if local:
            self.after_local_step(done + 1)
            if (done + 1 - self.synchronous_steps) % self.period == 0:
                self.end_period(done + 1)
        return result

    def parameters(self) -> list[Tensor]:
        """The trained parameters of this rank."""
        assert self.lightning_module is not None
        return [p for p in self.lightning_module.parameters() if p.requires_grad]

    def flat_parameters(self, before: Sequence[Tensor] | None = None) -> list[Tensor]:
        """A copy of them, one vector per dtype. Raises UserError if they are not those of the vectors `before`."""
        vectors = flatten_by_dtype(self.parameters())
        if before is not None and [v.shape for v in vectors] != [v.shape for v in before]:
            raise UserError("strategy: the set of trained parameters changed; do not freeze parameters during training")
        return vectors

    def mean(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Average vectors over all ranks, in place."""
        if self.world_size > 1:
            for vector in vectors:
                self.send(vector)
                vector.div_(self.world_size)
        return list(vectors)

    def send(self, vector: Tensor, background: bool = False) -> dist.Work | None:
        """All-reduce a vector in place and count its bytes; with `background`, return the work to wait for."""
        self.bytes_counter.sent += vector.numel() * vector.element_size()
        return dist.all_reduce(vector, async_op=background)

    # --- weights for evaluation --------------------------------------------------------------------------------
    def _averaged_tensors(self) -> list[Tensor]:
        assert self.lightning_module is not None
        buffers = [b for b in self.lightning_module.buffers() if b.is_floating_point()]
        return [*self.parameters(), *buffers]

    def swap_in_average(self) -> None:
        """Replace this rank's weights and buffers by the mean over all ranks."""
        if self._diverged and self._local is None:
            tensors = self._averaged_tensors()
            self._local = [t.detach().clone() for t in tensors]
            unflatten_into(tensors, self.mean(flatten_by_dtype(tensors)))

    def restore_local(self) -> None:
        """Restore this rank's own weights and buffers."""
        if self._local is not None:
            with torch.no_grad():
                for tensor, own in zip(self._averaged_tensors(), self._local, strict=True):
                    tensor.copy_(own)
            self._local = None

    def finish(self) -> None:
        """Keep the mean as the weights of all ranks when training ends."""
        self.swap_in_average()
        self._local, self._diverged = None, False

    def log(self, values: dict[str, float]) -> None:
        """Log metrics at the last completed step."""
        assert self.lightning_module is not None
        for logger in self.lightning_module.trainer.loggers:
            logger.log_metrics(values, self.lightning_module.global_step)

    # --- Lightning's hooks -----------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn == "fit":
            self._check_supported(trainer)
            insert_callback(trainer, _AverageAtEndHook())  # before callbacks that read the weights
        super().setup(trainer)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._diverged = True

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self.swap_in_average()

    def on_validation_end(self) -> None:
        super().on_validation_end()
        self.restore_local()

    def lightning_module_state_dict(self) -> StateDict:
        shown = self._local is not None
        self.swap_in_average()
        state = super().lightning_module_state_dict()
        if not shown and self._local is not None:
            state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
            self.restore_local()
        return state

    # --- checkpoints -----------------------------------------------------------------------------------------
    def save_checkpoint(self, checkpoint: StateDict, filepath: str | Path, storage_options: object = None) -> None:
        if "optimizer_states" in checkpoint:  # not for weights-only checkpoints
            weights = self._local if self._local is not None else self._averaged_tensors()
            mine = {"weights": weights, "optimizers": checkpoint["optimizer_states"], "more": self.local_state()}
            if (ranks := gather_on_rank_zero(mine)) is not None:
                of_all = {"algorithm": type(self).__name__, "shared": to_cpu(self.shared_state())}
                checkpoint[CHECKPOINT_KEY] = {**of_all, "ranks": ranks}
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        found = checkpoint.get(CHECKPOINT_KEY, {})
        own = found if found.get("algorithm") == type(self).__name__ else {"shared": {}, "ranks": []}
        if own["shared"]:
            self.load_shared_state(own["shared"])
        mine = own["ranks"][self.global_rank] if len(own["ranks"]) == self.world_size else None
        super().load_optimizer_state_dict({"optimizer_states": mine["optimizers"]} if mine else checkpoint)
        if mine:
            with torch.no_grad():
                for tensor, own in zip(self._averaged_tensors(), mine["weights"], strict=True):
                    tensor.copy_(own)
            self.load_local_state(mine["more"])

    # --- unsupported settings --------------------------------------------------------------------------------
    def choose_launcher(self, start_method: str) -> Launcher:
        if self.layer_sync is not None:
            raise UserError("trainer.sync_batchnorm: not possible with local steps; use strategy=ddp")
        if self.precision_plugin.precision == "16-mixed":
            raise UserError("trainer.precision=16-mixed: each rank would have its own loss scale; use bf16-mixed")
        return super().choose_launcher(start_method)

    def _check_supported(self, trainer: pl.Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            pruned = type(callback).__module__.startswith("lightning_modules.compression.")
            if pruned or isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"{type(callback).__name__} reads the weights at every step, but they differ between ranks with this "
                    "strategy: use strategy=ddp, or remove the callback"
                )


class _AverageAtEndHook(pl.Callback):
    """Calls `LocalSteps.finish` before other callbacks see the end of training; Lightning calls the strategy last."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer.strategy, LocalSteps)
        trainer.strategy.finish()
