"""Ranks that train on by themselves between two synchronisations: what all such algorithms share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.lightning import Launcher, insert_callback
from lightning_modules.compat.torch import set_ddp_sync
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.ddp import CheckedDDP
from lightning_modules.strategy.flatten import flatten_by_dtype, unflatten_into
from lightning_modules.strategy.rank_checkpoint import gather_rank_states, rank_state_of, shared_state_of


class LocalSteps(CheckedDDP):
    """Every rank steps with its own gradients; every `period` steps `end_period` brings the ranks together.

    The mean of the ranks' weights and of their floating buffers (batch norm's statistics) is what is validated,
    checkpointed and left when training ends. After a validation or a checkpoint each rank goes on with its own
    weights: how often is measured, and when a checkpoint is due by the clock, must not change what is trained.
    Optimizer state stays local. A whole checkpoint holds weights and optimizer state of each rank, so that a resumed
    training is the uninterrupted one bit by bit; on another number of processes it goes on from the mean, with the
    optimizer state of rank 0. Between evaluations buffers stay local: batch norm does not train with its statistics.

    Args:
        period: optimizer steps between two synchronisations, H.
        synchronous_steps: at first so many steps with averaged gradients, which is DDP.
        ddp: as in `CheckedDDP`.

    Raises UserError for settings out of range, and for what needs equal weights on all ranks at every step.
    """

    supports_multi_step = False
    syncs_buffers = False

    def __init__(self, period: int = 8, synchronous_steps: int = 0, **ddp: Any) -> None:
        if period < 1:
            raise UserError(f"strategy.period={period}: the ranks can be averaged every 1 step or more")
        if synchronous_steps < 0:
            raise UserError(f"strategy.synchronous_steps={synchronous_steps}: it must be 0 or more")
        super().__init__(**ddp)
        self.period, self.synchronous_steps = period, synchronous_steps
        self._diverged = False  # whether the ranks train, each with its own weights
        self._local: list[Tensor] | None = None  # this rank's tensors while the mean stands in their place

    # --- what an algorithm defines ---------------------------------------------------------------------------
    @abstractmethod
    def end_period(self, step: int) -> None:
        """Bring the ranks together after `step` optimizer steps, the last of a period."""

    def after_local_step(self, step: int) -> None:
        """What is to be done after every local step, before a period ends."""

    def shared_state(self) -> dict[str, Any]:
        """Plain state beyond weights and optimizer that is equal on all ranks, for the checkpoint."""
        return {}

    def load_shared_state(self, state: dict[str, Any]) -> None:
        """Go on from it."""

    def local_state(self) -> dict[str, Any]:
        """Plain state beyond weights and optimizer that each rank has for itself, for the checkpoint."""
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """Go on from it, on as many processes."""

    # --- the steps -------------------------------------------------------------------------------------------
    def configure_ddp(self) -> None:
        if self.synchronous_steps:  # else no gradient is ever sent, and nothing has to be wrapped
            super().configure_ddp()

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
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
        """What is trained, of this rank."""
        assert self.lightning_module is not None
        return [p for p in self.lightning_module.parameters() if p.requires_grad]

    def mean(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of vectors over all ranks; they are overwritten."""
        if self.world_size > 1:
            for vector in vectors:
                self.send(vector)
                vector.div_(self.world_size)
        return list(vectors)

    def send(self, vector: Tensor, background: bool = False) -> Any:
        """Sum a vector over all ranks in its place and count its bytes; in the background, return what to wait for."""
        self.bytes_counter.add(vector.numel() * vector.element_size())
        return dist.all_reduce(vector, async_op=background)

    # --- the mean, looked at ---------------------------------------------------------------------------------
    def _averaged_tensors(self) -> list[Tensor]:
        assert self.lightning_module is not None
        buffers = [b for b in self.lightning_module.buffers() if b.is_floating_point()]
        return [*self.parameters(), *buffers]

    def swap_in_average(self) -> None:
        """Put the mean of all ranks in the place of this rank's weights and buffers."""
        if self._diverged and self._local is None:
            tensors = self._averaged_tensors()
            self._local = [t.detach().clone() for t in tensors]
            unflatten_into(tensors, self.mean(flatten_by_dtype(tensors)))

    def restore_local(self) -> None:
        """Put this rank's own back."""
        if self._local is not None:
            with torch.no_grad():
                for tensor, own in zip(self._averaged_tensors(), self._local, strict=True):
                    tensor.copy_(own)
            self._local = None

    def finish(self) -> None:
        """End the training with the mean in place of all ranks' weights."""
        self.swap_in_average()
        self._local, self._diverged = None, False

    def log(self, values: dict[str, float]) -> None:
        """Give metrics to the loggers, at the last completed step."""
        assert self.lightning_module is not None
        for logger in self.lightning_module.trainer.loggers:
            logger.log_metrics(values, self.lightning_module.global_step)

    # --- where Lightning calls -------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn == "fit":
            self._check_supported(trainer)
            insert_callback(trainer, _AverageAtEndHook())  # before those that look at the weights
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

    def lightning_module_state_dict(self) -> dict[str, Any]:
        shown = self._local is not None
        self.swap_in_average()
        state = super().lightning_module_state_dict()
        if not shown and self._local is not None:
            state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
            self.restore_local()
        return state

    # --- checkpoints -----------------------------------------------------------------------------------------
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if "optimizer_states" in checkpoint:  # not where the weights alone are wanted
            weights = self._local if self._local is not None else self._averaged_tensors()
            mine = {"weights": weights, "optimizers": checkpoint["optimizer_states"], "more": self.local_state()}
            gather_rank_states(checkpoint, type(self).__name__, mine, self.shared_state())
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        name = type(self).__name__
        if (shared := shared_state_of(checkpoint, name)) is not None:
            self.load_shared_state(shared)
        mine = rank_state_of(checkpoint, name, self.global_rank, self.world_size)
        super().load_optimizer_state_dict({"optimizer_states": mine["optimizers"]} if mine else checkpoint)
        if mine:
            with torch.no_grad():
                for tensor, own in zip(self._averaged_tensors(), mine["weights"], strict=True):
                    tensor.copy_(own)
            self.load_local_state(mine["more"])

    # --- what does not go with it ----------------------------------------------------------------------------
    def choose_launcher(self, start_method: str) -> Launcher:
        if self.layer_sync is not None:
            raise UserError("trainer.sync_batchnorm: it needs all ranks at every step; strategy=ddp has them")
        if self.precision_plugin.precision == "16-mixed":
            raise UserError("trainer.precision=16-mixed: each rank would scale its loss by itself; try bf16-mixed")
        return super().choose_launcher(start_method)

    def _check_supported(self, trainer: pl.Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            pruned = type(callback).__module__.startswith("lightning_modules.compression.")
            if pruned or isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"{type(callback).__name__} follows the weights at every step, and those of the ranks differ between "
                    "two averages: use strategy=ddp, or leave it out"
                )


class _AverageAtEndHook(pl.Callback):
    """Calls `LocalSteps.finish` before any other callback sees the end of training: Lightning calls strategies last."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer.strategy, LocalSteps)
        trainer.strategy.finish()
