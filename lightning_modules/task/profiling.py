"""Size, latency and training throughput of a network."""

import contextlib
import statistics
import time
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parameter import is_lazy

_MIN_PASSES, _MAX_SECONDS = 10, 0.5  # minimum number of timed forward passes; seconds after which no more are timed


def model_size(model: nn.Module) -> dict[str, float]:
    """Number of parameters, and bytes of all saved parameters and buffers."""
    tensors = [tensor for tensor in model.state_dict().values() if not is_lazy(tensor)]
    return {
        "model/params": float(sum(p.numel() for p in model.parameters() if not is_lazy(p))),
        "model/size_bytes": float(sum(t.numel() * t.element_size() for t in tensors)),
    }


class LatencyMonitor(pl.Callback):
    """Logs ``model/latency_ms`` at the end of training: the median latency of one sample on the module's device."""

    needs = "example"  # of the datamodule

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            x: torch.Tensor = trainer.datamodule.example(1).to(pl_module.device)  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics({"model/latency_ms": latency_ms(pl_module, x)}, trainer.global_step)


def latency_ms(module: nn.Module, x: torch.Tensor) -> float:
    """Median time of ``module(x)`` in milliseconds, in eval mode without gradients, after two warm-up passes.

    On CUDA it is the time between two events on the stream.
    """
    training = module.training
    times: list[float] = []
    module.eval()
    until = time.perf_counter() + _MAX_SECONDS
    with torch.inference_mode():
        for _ in range(2):
            module(x)
        while len(times) < _MIN_PASSES or (time.perf_counter() < until and len(times) < 10 * _MIN_PASSES):
            times.append(_time_once_ms(module, x))
    module.train(training)
    return statistics.median(times)


def _time_once_ms(module: nn.Module, x: torch.Tensor) -> float:
    if x.device.type != "cuda":
        begin = time.perf_counter()
        module(x)
        return (time.perf_counter() - begin) * 1000
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin_event.record()
    module(x)
    end_event.record()
    torch.cuda.synchronize(x.device)
    return float(begin_event.elapsed_time(end_event))


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Limit torch to one thread in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThroughputTimer:
    """Measures one epoch: started before its first batch, read before validation or the end of the epoch."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._samples = 0

    def start(self) -> None:
        self._since, self._samples = time.perf_counter(), 0

    def add(self, samples: int) -> None:
        self._samples += samples

    def read(self) -> float | None:
        """Samples per second since `start`; None if it was already read, or without samples."""
        since, self._since = self._since, None
        return self._samples / (time.perf_counter() - since) if since is not None and self._samples else None
