"""What a network costs: its size, and how long one sample takes."""

import contextlib
import statistics
import time
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import nn

_LEAST, _MOST_S = 10, 0.5  # forward passes that are timed, and seconds that they may take beyond those


def model_size(model: nn.Module) -> dict[str, float]:
    """Number of parameters, and bytes of all parameters and buffers as they are saved."""
    tensors = list(model.state_dict().values())
    return {
        "model/params": float(sum(p.numel() for p in model.parameters())),
        "model/size_bytes": float(sum(t.numel() * t.element_size() for t in tensors)),
    }


class Latency(pl.Callback):
    """Logs ``model/latency_ms`` when training ends: the median time of one sample through the network, on its device."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            x: torch.Tensor = trainer.datamodule.example(1).to(pl_module.device)  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics({"model/latency_ms": latency_ms(pl_module, x)}, trainer.global_step)


def latency_ms(module: nn.Module, x: torch.Tensor) -> float:
    """The median time in milliseconds of ``module(x)``, in evaluation mode, without gradients, after two to warm up.

    On CUDA the time between two events on the stream, so that launches which run ahead do not count as work.
    """
    training = module.training
    times: list[float] = []
    module.eval()
    until = time.perf_counter() + _MOST_S
    with torch.inference_mode():
        for _ in range(2):
            module(x)
        while len(times) < _LEAST or (time.perf_counter() < until and len(times) < 10 * _LEAST):
            times.append(_once_ms(module, x))
    module.train(training)
    return statistics.median(times)


def _once_ms(module: nn.Module, x: torch.Tensor) -> float:
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
def one_thread() -> Iterator[None]:
    """Let torch use one thread in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
