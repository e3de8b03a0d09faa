"""The fast loop: many optimizer steps in one call of ``training_step``, with the results of the ordinary loop.

Lightning's loop costs more per step than a small network needs. `FastLoop` decides whether it can be bypassed, takes the
steps by manual optimization, and leaves schedules and Lightning's counters as automatic optimization would.

Longer than 200 lines: the decision and the steps that it permits read the same state.
"""

from collections.abc import Iterator
from typing import ClassVar, Protocol

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from pytorch_lightning.utilities.types import LRSchedulerTypeUnion
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_modules.compat.lightning import count_steps, saves_within_epochs
from lightning_modules.config.errors import UserError
from lightning_modules.config.signature import locate, parameters_of
from lightning_modules.data.in_memory import Batch


class Task(Protocol):
    """What the fast loop needs of a task."""

    batch_size: int

    @property
    def trainer(self) -> pl.Trainer: ...

    @property
    def global_step(self) -> int: ...

    def training_loss(self, batch: Batch, step: int) -> Tensor: ...

    def log_step(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None: ...


class Data(Protocol):
    """What the choice of the loop depends on in a datamodule."""

    batch_size: int

    @property
    def in_memory(self) -> bool: ...

    @property
    def bytes_per_sample(self) -> int: ...

    def steps_per_epoch(self, shares: int = 1) -> int: ...


class FastLoop:
    """Takes one optimizer step per mini-batch of a chunk; a chunk is several consecutive batches of the epoch."""

    # trainer settings that act on single steps, except for these values (1.0 is a fraction, 1 a number of batches)
    _SETTINGS: ClassVar[dict[str, tuple[object, ...]]] = {
        "accumulate_grad_batches": (1,),
        "detect_anomaly": (False, None),
        "fast_dev_run": (False,),
        "gradient_clip_val": (0, 0.0, None),
        "limit_train_batches": (1.0, None),
        "max_time": (None,),
        "overfit_batches": (0, 0.0),
        "precision": ("32-true", 32, "32"),
        "profiler": (None,),
        "val_check_interval": (1.0, None),
    }
    _HOOKS = (
        "on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_after_backward",
        "on_before_optimizer_step", "on_before_zero_grad",
    )  # fmt: skip
    _MAX_STEPS, _MAX_BYTES = 50, 64 * 2**20  # of a chunk
    _TINY_MODEL, _SMALL_MODEL = 30_000, 2_000_000  # parameters

    # --- the choice of the loop ----------------------------------------------------------------------------------
    @classmethod
    def steps_per_call(cls, cfg: DictConfig, data: Data, model: nn.Module, callbacks: list[pl.Callback]) -> int:
        """Return the number of steps per call: ``steps_per_call`` of the config, or for ``auto`` what is possible.

        1 is Lightning's ordinary loop. Raises UserError if `steps_per_call` is set although something needs single steps.
        """
        needing = cls._what_needs_single_steps(cfg, callbacks)
        needing += [f"data={cfg.data['_target_']}"] if getattr(data, "chunk", 1) is None else []  # not our loader
        if cfg.steps_per_call != "auto":
            if cfg.steps_per_call > 1 and needing:
                raise UserError(
                    f"steps_per_call={cfg.steps_per_call}: {', '.join(needing)} acts on single steps; set steps_per_call=1"
                )
            return int(cfg.steps_per_call)
        size = sum(p.numel() for p in model.parameters())
        observed = any(cls._has_step_hooks(callback) for callback in callbacks)
        if needing or observed or cfg.compile or size >= cls._SMALL_MODEL or not data.in_memory:
            return 1
        steps = cls._MAX_STEPS if size < cls._TINY_MODEL else cls._MAX_STEPS // 10
        return max(
            1, min(steps, data.steps_per_epoch(), cls._MAX_BYTES // max(1, data.bytes_per_sample * data.batch_size))
        )

    @classmethod
    def _what_needs_single_steps(cls, cfg: DictConfig, callbacks: list[pl.Callback]) -> list[str]:
        settings = [
            f"trainer.{key}={cfg.trainer[key]}"
            for key, allowed in cls._SETTINGS.items()
            if key in cfg.trainer
            and not any(cfg.trainer[key] == value and type(cfg.trainer[key]) is type(value) for value in allowed)
        ]
        acting = [
            type(callback).__name__
            for callback in callbacks
            if isinstance(callback, BatchSizeFinder | LearningRateFinder)
            or (isinstance(callback, ModelCheckpoint) and saves_within_epochs(callback))
        ]
        step = parameters_of(getattr(locate(cfg.optimizer["_target_"]), "step", lambda: None))[0].get("closure")
        if step and step.default is step.empty:  # as LBFGS, which evaluates the loss several times
            acting.append(cfg.optimizer["_target_"])
        scheduler = cfg.scheduler or {}
        if scheduler.get("frequency", 1) != 1 or (scheduler.get("monitor") and scheduler.get("interval") == "step"):
            acting.append("scheduler.frequency or scheduler.interval")
        return settings + acting + cls._strategy_that_acts_on_steps(cfg)

    @staticmethod
    def _strategy_that_acts_on_steps(cfg: DictConfig) -> list[str]:
        """The strategy or its hook, if it does more in a step than averaging gradients in the backward pass."""
        if cfg.strategy.get("_target_") is None:
            single = (cfg.trainer.devices, cfg.trainer.num_nodes) == (1, 1)
            return [] if single else [f"trainer.devices={cfg.trainer.devices}"]
        strategy, hook = get_class(cfg.strategy["_target_"]), cfg.strategy.get("hook")
        if cfg.strategy.get("static_graph") or not getattr(strategy, "averages_in_backward_only", False):
            return [strategy.__name__]
        if hook is not None and getattr(get_class(hook["_target_"]), "depends_on_buckets", True):
            return [get_class(hook["_target_"]).__name__]
        return []

    @classmethod
    def _has_step_hooks(cls, callback: pl.Callback) -> bool:
        """Whether a callback other than Lightning's displays and checkpoints sees single steps."""
        if isinstance(callback, LearningRateMonitor):
            return callback.logging_interval != "epoch"
        if isinstance(callback, Checkpoint | ProgressBar | ModelSummary):
            return False
        return any(getattr(type(callback), hook, None) is not getattr(pl.Callback, hook) for hook in cls._HOOKS)

    # --- the steps -----------------------------------------------------------------------------------------------
    def take_steps(self, task: Task, chunk: Batch) -> None:
        """Take one optimizer step per mini-batch of `chunk`, as Lightning's automatic optimization would."""
        trainer = task.trainer
        optimizer: torch.optim.Optimizer = trainer.optimizers[0]
        group = optimizer.param_groups[0]
        schedule = _find_schedule(trainer, "step")
        first = step = task.global_step
        limit = trainer.max_steps - first if trainer.max_steps >= 0 else None
        count_batch = getattr(trainer.progress_bar_callback, "count_batch", None)
        for batch in mini_batches(chunk, task.batch_size, limit):
            loss = task.training_loss(batch, step)
            optimizer.zero_grad()
            trainer.strategy.pre_backward(loss)  # ranks average their gradients in the backward pass
            loss.backward()
            trainer.strategy.post_backward(loss)
            optimizer.step()
            task.log_step(step, loss, batch["index"], group["lr"])
            if schedule is not None:
                schedule.step()
            step += 1
            if count_batch is not None:
                count_batch()
        count_steps(trainer, step - first)

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Step the schedule that counts epochs; on a plateau with the latest value of its metric."""
        schedule = _find_schedule(trainer, "epoch")
        if schedule is None:
            return
        monitor = getattr(schedule, "monitor", None)
        if not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()
        elif monitor in trainer.callback_metrics:
            schedule.step(trainer.callback_metrics[monitor])
        else:
            raise UserError(
                f"scheduler.monitor={monitor}: not logged in the first epoch; set trainer.check_val_every_n_epoch=1"
            )

    def planned_steps(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Optimizer steps of the whole fit and of one epoch: Lightning's own estimate counts chunks."""
        shares = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
        data: Data = trainer.datamodule  # type: ignore[attr-defined]
        per_epoch, epochs = data.steps_per_epoch(shares), trainer.max_epochs
        total = trainer.max_steps if epochs == -1 else per_epoch * (epochs or 1)
        return (min(total, trainer.max_steps) if trainer.max_steps >= 0 else total), per_epoch


def mini_batches(chunk: Batch, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Split a chunk into its batches, the last of which may be smaller; at most `limit` of them."""
    parts = {key: value.split(batch_size) for key, value in chunk.items()}
    for values in list(zip(*parts.values(), strict=True))[:limit]:
        yield dict(zip(parts, values, strict=True))


def _find_schedule(trainer: pl.Trainer, interval: str) -> LRSchedulerTypeUnion | None:
    """The learning-rate schedule that is stepped once per `interval` (``step`` or ``epoch``), or None."""
    return next((config.scheduler for config in trainer.lr_scheduler_configs if config.interval == interval), None)
