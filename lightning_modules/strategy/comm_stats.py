"""What a run sends between its processes, how long that takes, and how many samples it trains on in a second."""

import time
from dataclasses import dataclass
from typing import Any

from lightning_modules.strategy.step_timer import StepTimer


@dataclass
class BytesCounter:
    """Counts the bytes that this rank has given to collectives in training: payloads, whatever an algorithm makes of them."""

    sent: int = 0

    def add(self, num_bytes: int) -> None:
        """Count a payload."""
        self.sent += num_bytes


class CommStats(StepTimer):
    """A strategy that logs once an epoch what its training has sent. Stands before Lightning's strategy in the bases.

    Logged, of the batches since the last time:

    - ``comm/bytes``: payload a batch and rank, whether the batch ends in an optimizer step or not.
    - ``comm/time_s``: seconds a batch between the first gradients ready to be sent and all of them averaged, waiting for
      slower ranks included; ``comm/exposed_s``: the part of it in which nothing is computed. Where they are measured.
    - ``throughput/samples_per_s``: of all ranks, from the first batch to the validation.
    - ``comm/world_size``: the number of ranks.
    - ``comm/slowest_rank``, ``comm/slowest_ratio``: see `slow_ranks.py`.

    A subclass counts in `traffic`, and tells the seconds in `comm_seconds`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bytes_counter = BytesCounter()
        self._since: float | None = None  # None: not in training now
        self._sent_before = self._batches = self._samples = 0

    def comm_seconds(self) -> tuple[float, float] | None:
        """(in communication, of which nothing was computed meanwhile), means over all batches so far; None: unknown."""
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
