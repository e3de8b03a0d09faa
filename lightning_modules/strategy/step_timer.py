"""Which rank the others wait for: the time that each needs for a batch by itself, compared once an epoch."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import Strategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.lightning import insert_callback
from lightning_modules.compat.torch import ddp_timing
from lightning_modules.strategy.launch.failures import warn

_MIN_GAP_S = 1e-3  # a batch: less is not worth a warning, however small the batches are


class StepTimer(Strategy):
    """Measures the seconds of a batch in which this rank waits for no other one.

    They are those between two training steps (data, callbacks), of the forward pass with augmentation, once DDP has
    brought the buffers, and of the backward pass by the clock of DDP's reducer. The optimizer's step, in which some
    strategies communicate, is left out, and so is the first batch. On GPUs the passes are those of the host.

    `compare_ranks` gives ``comm/slowest_rank``, and ``comm/slowest_ratio``: its seconds over the median of the others.
    """

    forward_communicates = False  # whether ranks meet within the passes: these are then left out
    slow_ratio = 2.0  # from which on it is told

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle_since: float | None = None  # None: this rank may have waited since
        self._computing_since = 0.0
        self._seconds, self._timed_batches, self._is_warm, self._has_warned = 0.0, 0, False, False
        self._forward_hook: Any = None

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

    def on_train_end(self) -> None:
        super().on_train_end()
        if self._forward_hook is not None:
            self._forward_hook.remove()

    def _begin_forward(self, *_: Any) -> None:
        self._computing_since = time.perf_counter()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        now = self._computing_since = time.perf_counter()
        between = now - self._idle_since if self._idle_since is not None else 0.0
        result = super().training_step(*args, **kwargs)
        if self._is_warm:
            self._seconds += between
            if not self._is_multi_step:
                self._seconds += 0.0 if self.forward_communicates else time.perf_counter() - self._computing_since
                self._timed_batches += 1
        return result

    @property
    def _is_multi_step(self) -> bool:
        """Whether a training step takes many mini-batches, each with a backward pass of its own."""
        return self.lightning_module is not None and not self.lightning_module.automatic_optimization

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

    def pause_timer(self) -> None:
        """What has passed since the last step was not this rank's own time."""
        self._idle_since = None

    def on_step_end(self) -> None:
        self._idle_since, self._is_warm = time.perf_counter(), True

    def compare_step_times(self) -> dict[str, float]:
        """What is logged of the batches since the last time; all ranks must call it after as many batches."""
        batches, self._timed_batches = self._timed_batches, 0
        seconds, self._seconds = self._seconds, 0.0
        if not batches or not dist.is_initialized() or dist.get_world_size() == 1:
            return {}
        own = torch.tensor([seconds / batches + self._backward_seconds()], device=self.root_device)
        of_all = own.new_empty(dist.get_world_size())
        dist.all_gather_into_tensor(of_all, own)
        times = of_all.tolist()
        rank, ratio = slowest_rank(times)
        others = times[rank] / ratio
        if (
            self.is_global_zero
            and not self._has_warned
            and ratio > self.slow_ratio
            and times[rank] - others > _MIN_GAP_S
        ):
            self._has_warned = True
            warn(
                f"rank {rank} needs {1e3 * times[rank]:.1f} ms for a batch, {ratio:.1f} times as long as the others "
                f"({1e3 * others:.1f} ms), which all wait for it; strategy.slow_ratio={self.slow_ratio:g} sets from when "
                "on this is told"
            )
        return {"comm/slowest_rank": float(rank), "comm/slowest_ratio": ratio}

    def _backward_seconds(self) -> float:
        if not isinstance(self.model, DistributedDataParallel):
            return 0.0
        return float(ddp_timing(self.model).get("avg_backward_compute_time", 0)) * 1e-9


class _StepEndHook(pl.Callback):
    """Calls `Paced.step_is_done` after the optimizer's step: Lightning has no hook of strategies there."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if isinstance(trainer.strategy, StepTimer):
            trainer.strategy.on_step_end()


def slowest_rank(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that needs most, and how many times the median of the others that is."""
    rank = max(range(len(seconds)), key=lambda r: seconds[r])
    others = statistics.median(value for r, value in enumerate(seconds) if r != rank)
    return rank, seconds[rank] / max(others, 1e-9)
