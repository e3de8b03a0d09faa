"""CUDA settings and checks: matmul precision, deterministic operators, free memory, CUDA graphs."""

import contextlib
import logging
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict
from torch import nn

from lightning_modules.config.errors import UserError, first_line

log = logging.getLogger(__name__)
# Weights, gradients and Adam's two moments; activations and cuDNN's workspace come on top.
_WEIGHT_COPIES = 4
MATMUL_PRECISIONS = ("highest", "high", "medium")


def uses_cuda(cfg: DictConfig) -> bool:
    """Whether this config runs on CUDA. Does not initialize it, so that the process can still fork."""
    return cfg.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()


def set_matmul_precision(cfg: DictConfig) -> None:
    """Apply `matmul_precision` to float32 products and convolutions on CUDA, and write what null means into the config.

    ``highest`` computes in float32, ``high`` and ``medium`` in TensorFloat-32. null means ``highest`` for a claim, so
    that precision cannot cause a difference, and ``high`` otherwise. Other devices are not affected.
    """
    chosen = cfg.get("matmul_precision")
    if chosen not in (None, *MATMUL_PRECISIONS):
        raise UserError(f"matmul_precision={chosen}: expected null or one of {', '.join(MATMUL_PRECISIONS)}")
    if not uses_cuda(cfg):
        return
    if chosen is None:
        chosen = "highest" if cfg.get("claim") else "high"
        with open_dict(cfg):
            cfg.matmul_precision = chosen
    precise = chosen == "highest"
    torch.backends.cuda.matmul.fp32_precision = "ieee" if precise else "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee" if precise else "tf32"  # type: ignore[attr-defined]


def allow_nondeterministic(cfg: DictConfig, step: Callable[[], object]) -> None:
    """Change ``trainer.deterministic`` from true to ``warn`` if `step` uses an operator without a deterministic version.

    Args:
        step: one forward and backward pass on the run's device.
    """
    if cfg.trainer.get("deterministic") is not True:
        return
    torch.use_deterministic_algorithms(True)
    try:
        step()
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        operator = str(error).split(" does not have")[0]
        log.warning(
            "trainer.deterministic=true: %s has no deterministic implementation on this device; continuing with "
            "trainer.deterministic=warn, so that two runs of the same seed may differ",
            operator,
        )
        with open_dict(cfg):
            cfg.trainer.deterministic = "warn"
        torch.use_deterministic_algorithms(True, warn_only=True)


def require_free_memory(cfg: DictConfig, weights: int, dataset: int, free: int, name: str) -> None:
    """Raise UserError if weights, gradients, optimizer state and data set exceed the GPU's free memory.

    Args:
        weights, dataset, free: bytes of the parameters, of the data kept on the GPU (``data.device=trainer``), and available.
        name: of the GPU.
    """
    needed = _WEIGHT_COPIES * weights + dataset
    if needed > free:
        held = (
            f" and {dataset / 1e9:.1f} GB for the data set (data.device=cpu keeps it in main memory)" if dataset else ""
        )
        raise UserError(
            f"{name} has {free / 1e9:.1f} GB of free memory, but the run needs at least {_WEIGHT_COPIES * weights / 1e9:.1f}"
            f" GB for weights, gradients and optimizer state{held}: use a smaller model, or free the GPU"
        )


def out_of_memory_message(cfg: DictConfig, error: BaseException) -> str:
    """What to change in a run that is out of memory."""
    reason = first_line(error)
    size = cfg.data.get("batch_size")
    advice = [
        f"data.batch_size={max(1, size // 2)} trainer.accumulate_grad_batches=2 (now {size})" if size else "",
        "trainer.precision=bf16-mixed" if str(cfg.trainer.get("precision", "32")).startswith("32") else "",
        "data.device=cpu" if cfg.data.get("device") == "trainer" else "",
    ]
    return f"out of memory: {reason}\nReduce memory use: " + ", or ".join(word for word in advice if word)


class PeakMemory(pl.Callback):
    """Logs ``system/gpu_peak_memory_bytes``: peak memory allocated by torch on this process's GPU during training."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda" and trainer.logger is not None:
            peak = float(torch.cuda.max_memory_allocated(pl_module.device))
            trainer.logger.log_metrics({"system/gpu_peak_memory_bytes": peak}, trainer.global_step)


class CudaGraphs(pl.Callback):
    """Replays the network's forward and backward pass as CUDA graphs: one launch instead of one per kernel.

    For small networks, whose kernels take less time than their launch. Batches of a size other than `data.batch_size`
    run without graphs. Does nothing on other devices.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type != "cuda":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        samples = data.example(data.batch_size).to(pl_module.device)
        with torch.no_grad():
            x = pl_module.get_submodule("preprocess")(samples)
        if len(x) == data.batch_size:
            graph_forward(pl_module.get_submodule("model"), x)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.get_submodule("model").__dict__.pop("forward", None)


def graph_forward(model: nn.Module, x: torch.Tensor) -> None:
    """Capture the training pass of `model` for inputs like `x`; buffers (batch norm statistics) do not change."""
    ordinary = model.forward
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.cuda.make_graphed_callables(model.train(), (x.clone(),))
    captured = model.forward
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])

    def forward(batch: torch.Tensor) -> torch.Tensor:
        fits = batch.shape == x.shape and batch.dtype == x.dtype and model.training and torch.is_grad_enabled()
        return captured(batch) if fits else ordinary(batch)

    model.forward = forward


@contextlib.contextmanager
def explain_out_of_memory(cfg: DictConfig) -> Iterator[None]:
    """Turn torch's OutOfMemoryError into a UserError that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory_message(cfg, error), transient=True) from error
