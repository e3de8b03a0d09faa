"""Communication metrics: bytes sent between processes, time in communication, samples per second."""

import time
from dataclasses import dataclass
from typing import Any

from lightning_modules.strategy.step_timer import StepTimer


@dataclass
class BytesCounter:
    """Counts the bytes that this rank passes to collectives in training (payloads, before any algorithm's overhead)."""

    sent: int = 0

    def add(self, num_bytes: int) -> None:
        """Count a payload."""
        self.sent += num_bytes


class CommStats(StepTimer):
    """Mixin that logs communication metrics once per epoch. Must precede Lightning's strategy in the bases.

    Logged, for the batches since the last time:

    - ``comm/bytes``: payload per batch and rank, whether or not the batch ends in an optimizer step.
    - ``comm/time_s``: seconds per batch from the first gradients ready to be sent until all are averaged, including
      waiting for slower ranks; ``comm/exposed_s``: the part of it without computation. Only where measured.
    - ``throughput/samples_per_s``: of all ranks, from the first batch to the validation.
    - ``comm/world_size``: the number of ranks.
    - ``comm/slowest_rank``, ``comm/slowest_ratio``: see `Paced`.

    Subclasses count bytes in `traffic` and override `comm_seconds`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bytes_counter = BytesCounter()
        self._since: float | None = None  # None: not in training
        self._sent_before = self._batches = self._samples = 0

    def comm_seconds(self) -> tuple[float, float] | None:
        """(seconds in communication, of these without computation), mean per batch so far; None if unknown."""
        return None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0:
            self._log()
            self.pause_timer()
        if self._since is None:
            self._since, self._sent_before = time.perf_counter(), self.bytes_counter.sent
        task: Any = self.lightning_module
        samples = len(next(iter(batch.values())))
        self._batches += 1 if task is None or task.automatic_optimization else -(-samples // task.batch_size)
        self._samples += samples

    def on_validation_start(self) -> None:
        self._log()
        self.pause_timer()
        super().on_validation_start()

    def on_train_end(self) -> None:
        self._log()
        super().on_train_end()

    def _log(self) -> None:
        if self._since is None or self.lightning_module is None:
            return
        trainer, seconds = self.lightning_module.trainer, time.perf_counter() - self._since
        shares = int((trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1))
        values = {
            "comm/bytes": (self.bytes_counter.sent - self._sent_before) / self._batches,
            "throughput/samples_per_s": self._samples * shares / seconds,
            "comm/world_size": float(trainer.world_size),
        }
        if measured := self.comm_seconds():
            values |= dict(zip(("comm/time_s", "comm/exposed_s"), measured, strict=True))
        values |= self.compare_step_times()
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, trainer.global_step)
        self._since, self._batches, self._samples = None, 0, 0
