"""Communication metrics: bytes sent between processes, time in communication, samples per second, and the slowest rank.

Longer than 200 lines: the mixin's hooks share the clocks of a step.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from lightning_modules.compat.lightning import insert_callback
from lightning_modules.compat.torch import ddp_timing
from lightning_modules.config.errors import warn

_MIN_GAP_S = 1e-3  # per batch: smaller differences are not worth a warning


@dataclass
class BytesCounter:
    """Counts the bytes that this rank passes to collectives in training (payloads, before any algorithm's overhead)."""

    sent: int = 0


class CommStats(Strategy):
    """Mixin that logs communication metrics once per epoch. Must precede Lightning's strategy in the bases.

    Logged, for the batches since the last time:

    - ``comm/bytes``: payload per batch and rank, whether or not the batch ends in an optimizer step.
    - ``comm/time_s``: seconds per batch from the first gradients ready to be sent until all are averaged, including
      waiting for slower ranks; ``comm/exposed_s``: the part of it without computation. Only where measured.
    - ``throughput/samples_per_s``: of all ranks, from the first batch to the validation.
    - ``comm/world_size``: the number of ranks.
    - ``comm/slowest_rank``, and ``comm/slowest_ratio``, its time over the median of the others.

    The time of a rank is that in which it does not wait for another: between two training steps (data, callbacks), of the
    forward pass with augmentation, after DDP's buffer broadcast, and of the backward pass, from DDP's own timer. The
    optimizer's step, in which some strategies communicate, and the first batch are excluded. On GPUs the passes are
    measured on the host.

    Subclasses count bytes in `bytes_counter` and override `comm_seconds`.
    """

    forward_communicates = False  # whether ranks communicate in the forward or backward pass: these are then excluded
    slow_ratio = 2.0  # from which on a warning is printed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bytes_counter = BytesCounter()
        self._since: float | None = None  # None: not in training
        self._sent_before = self._batches = self._samples = 0
        self._idle_since: float | None = None  # None: this rank may have waited for others since
        self._computing_since = 0.0
        self._seconds, self._timed_batches, self._is_warm, self._has_warned = 0.0, 0, False, False
        self._forward_hook: RemovableHandle | None = None

    def comm_seconds(self) -> tuple[float, float] | None:
        """(seconds in communication, of these without computation), mean per batch so far; None if unknown."""
        return None

    # --- the epoch ---------------------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        if trainer.state.fn == "fit" and not any(isinstance(callback, _StepEndHook) for callback in callbacks):
            insert_callback(trainer, _StepEndHook())
        super().setup(trainer)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._is_warm = self._has_warned = False
        if self.lightning_module is not None:
            self._forward_hook = self.lightning_module.register_forward_pre_hook(self._begin_forward)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0:
            self._log()
        if self._since is None:
            self._since, self._sent_before = time.perf_counter(), self.bytes_counter.sent
        task: Any = self.lightning_module
        samples = num_samples(batch)
        self._batches += -(-samples // task.batch_size) if getattr(task, "fast_loop", None) else 1
        self._samples += samples

    def on_validation_start(self) -> None:
        self._log()
        super().on_validation_start()

    def on_train_end(self) -> None:
        self._log()
        super().on_train_end()
        if self._forward_hook is not None:
            self._forward_hook.remove()

    def _log(self) -> None:
        self._idle_since = None
        if self._since is None or self.lightning_module is None:
            return
        trainer, seconds = self.lightning_module.trainer, time.perf_counter() - self._since
        values = {
            "comm/bytes": (self.bytes_counter.sent - self._sent_before) / self._batches,
            "throughput/samples_per_s": self._samples * _num_shares(trainer) / seconds,
            "comm/world_size": float(trainer.world_size),
        }
        if measured := self.comm_seconds():
            values |= dict(zip(("comm/time_s", "comm/exposed_s"), measured, strict=True))
        values |= self._compare_step_times()
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)
        self._since, self._batches, self._samples = None, 0, 0

    # --- the time of this rank ---------------------------------------------------------------------------------
    @property
    def _is_multi_step(self) -> bool:
        """Whether one training step runs several mini-batches, each with its own backward pass."""
        return self.lightning_module is not None and not self.lightning_module.automatic_optimization

    def _begin_forward(self, *_: object) -> None:
        self._computing_since = time.perf_counter()

    def training_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        now = self._computing_since = time.perf_counter()
        between = now - self._idle_since if self._idle_since is not None else 0.0
        result = super().training_step(*args, **kwargs)
        if self._is_warm:
            self._seconds += between
            if not self._is_multi_step:
                self._seconds += 0.0 if self.forward_communicates else time.perf_counter() - self._computing_since
                self._timed_batches += 1
        return result

    def pre_backward(self, closure_loss: Tensor) -> None:
        super().pre_backward(closure_loss)
        now = time.perf_counter()
        if self._is_warm and self._is_multi_step:
            self._seconds += now - self._computing_since
            self._timed_batches += 1
        self._computing_since = now

    def post_backward(self, closure_loss: Tensor) -> None:
        if self._is_warm and not self.forward_communicates and not isinstance(self.model, DistributedDataParallel):
            self._seconds += time.perf_counter() - self._computing_since
        super().post_backward(closure_loss)
        self._computing_since = time.perf_counter()

    def end_step(self) -> None:
        """Called after the optimizer's step."""
        self._idle_since, self._is_warm = time.perf_counter(), True

    def _compare_step_times(self) -> dict[str, float]:
        """Metrics of the batches since the last call. A collective: all ranks must call it after as many batches."""
        batches, seconds = self._timed_batches, self._seconds
        self._timed_batches, self._seconds = 0, 0.0
        if not batches or not dist.is_initialized() or dist.get_world_size() == 1:
            return {}
        timing = ddp_timing(self.model) if isinstance(self.model, DistributedDataParallel) else {}
        backward = float(timing.get("avg_backward_compute_time", 0)) * 1e-9
        own = torch.tensor([seconds / batches + backward], device=self.root_device)
        of_all = own.new_empty(dist.get_world_size())
        dist.all_gather_into_tensor(of_all, own)
        times = of_all.tolist()
        rank, ratio = slowest_rank(times)
        others = times[rank] / ratio
        is_slow = ratio > self.slow_ratio and times[rank] - others > _MIN_GAP_S
        if is_slow and self.is_global_zero and not self._has_warned:
            self._has_warned = True
            warn(
                f"rank {rank} needs {1e3 * times[rank]:.1f} ms for a batch, {ratio:.1f} times as long as the others "
                f"({1e3 * others:.1f} ms), which wait for it; strategy.slow_ratio={self.slow_ratio:g} sets the ratio from "
                "which this warning is shown"
            )
        return {"comm/slowest_rank": float(rank), "comm/slowest_ratio": ratio}


class _StepEndHook(pl.Callback):
    """Calls `CommStats.end_step` after the optimizer's step, where Lightning has no strategy hook."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if isinstance(trainer.strategy, CommStats):
            trainer.strategy.end_step()


def _num_shares(trainer: pl.Trainer) -> int:
    """Among how many ranks the samples are divided."""
    return int((trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1))


def num_samples(batch: object) -> int:
    """The length of the first tensor in a batch of any structure; 1 if it has none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((num_samples(part) for part in parts if isinstance(part, Tensor | Mapping | list | tuple)), 1)


def slowest_rank(seconds: Sequence[float]) -> tuple[int, float]:
    """The slowest rank, and its time over the median of the others."""
    rank = max(range(len(seconds)), key=lambda r: seconds[r])
    others = statistics.median(value for r, value in enumerate(seconds) if r != rank)
    return rank, seconds[rank] / max(others, 1e-9)
