"""Checks of the built components before anything is trained or recorded.

Longer than 200 lines: each check is a few lines with its message.
"""

import contextlib
import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.data.in_memory import Batch, InMemoryData
from lightning_modules.run.build import build_scheduler, build_trainer
from lightning_modules.run.cuda import allow_nondeterministic, require_free_memory
from lightning_modules.run.publish import held_out_samples
from lightning_modules.task.batches import as_dict
from lightning_modules.task.manifold_mixup import manifold_mixup
from lightning_modules.task.metrics import metric_suffixes
from lightning_modules.task.supervised import Supervised
from lightning_modules.task.task_spec import build_task_from_spec, load_task_from_spec, require_same_outputs


def check_parts(cfg: DictConfig, task: Supervised, data: InMemoryData, callbacks: list[pl.Callback]) -> None:
    """Raise UserError for a metric that is never logged, a device that does not exist, or components that do not fit together."""
    check_monitors(callbacks, task, cfg.scheduler, has_val=len(data.splits["val"]) > 0)
    warn_about_duplicate_names(getattr(task, "class_names", None) or [])
    device = check_device(cfg)
    check_gpu_memory(cfg, task, data, device)
    check_forward(cfg, task, data)
    if cfg.tracking.enabled and task.task_spec:  # the spec in its checkpoints
        check_rebuild(task, data, compressed=bool((cfg.get("compression") or {}).get("stages")))
    if device.type == "cuda" and not cfg.compile:
        allow_nondeterministic(cfg, lambda: _trial_step(task, data, device))
    if not cfg.compile:
        check_augmentation(cfg, task, task.augmentation, data.train_batch(4))
    check_optimizer(cfg, task, data)


def warn_about_duplicate_names(class_names: Sequence[str]) -> None:
    """Warn about classes whose metric names differ by their number only."""
    suffixes = enumerate(zip(class_names, metric_suffixes(class_names), strict=True))
    if shared := [f"'{name}': {to}" for i, (name, to) in suffixes if to.endswith(f"-{i}") and to != name]:
        rank_zero_warn(
            f"classes whose names are equal in MLflow's character set are logged with their number: {'; '.join(shared)}"
        )


def check_monitors(
    callbacks: list[pl.Callback], task: Supervised, scheduler: Mapping[str, object] | None, has_val: bool
) -> None:
    """Raise UserError if a callback or scheduler monitors a metric that the task never logs."""
    logged = task.metric_names() | {name for callback in callbacks for name in getattr(callback, "logs", ())}
    if not has_val:
        logged = {name for name in logged if not name.startswith("val/")}
    watched = [(type(c).__name__, getattr(c, "monitor", None)) for c in callbacks if getattr(c, "monitor", None)]
    watched += [("scheduler", scheduler["monitor"])] if scheduler and scheduler.get("monitor") else []
    for owner, name in watched:
        if name not in logged:
            lacking = not has_val and str(name).startswith("val/")
            hint = " There is no validation set: use callbacks=last." if lacking else ""
            every = ", ".join(sorted(logged))
            raise UserError(
                f"{owner} monitors '{name}', which is never logged; {suggest(str(name), logged)} (all: {every}).{hint}"
            )


def check_device(cfg: DictConfig) -> torch.device:
    """Return this process's device. Raises UserError if this machine lacks what the trainer requires."""
    try:
        trainer = build_trainer(cfg, [], None, Path())
        if trainer.world_size > 1 and not cfg.strategy.get("_target_"):
            raise UserError(
                f"trainer.devices={cfg.trainer.devices}: {trainer.world_size} processes need a strategy, e.g. strategy=ddp"
            )
        return trainer.strategy.root_device
    except Exception as error:  # Lightning raises many types for a wrong device, precision or strategy
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(_device_message(cfg, cause)) from error


def check_gpu_memory(cfg: DictConfig, task: Supervised, data: InMemoryData, device: torch.device) -> None:
    """Raise UserError if the model and its optimizer exceed the GPU's free memory."""
    if device.type != "cuda":
        return
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    dataset = data.bytes_in_memory if data.device == "trainer" else 0
    free, _ = torch.cuda.mem_get_info(device)
    require_free_memory(cfg, weights, dataset, free, torch.cuda.get_device_name(device))


def _trial_step(task: Supervised, data: InMemoryData, device: torch.device) -> None:
    """A forward and backward pass of two samples on `device`, with a copy: weights, gradients and buffers stay unchanged."""
    twin = copy.deepcopy(task).to(device).train()
    twin.outputs_and_loss({"x": data.example(2).to(device), "y": data.arrays.y[:2].to(device)})[1].backward()


def _device_message(cfg: DictConfig, cause: BaseException) -> str:
    there = ["trainer=cpu", "strategy=ddp trainer.devices=2 (2 processes on CPU)"]
    there += ["trainer=gpu"] if torch.cuda.is_available() else []
    there += ["trainer=mps"] if torch.backends.mps.is_available() else []
    wanted = f"trainer.accelerator={cfg.trainer.accelerator} trainer.devices={cfg.trainer.devices}"
    return f"trainer: {first_line(cause)}\n  requested: {wanted}; available on this machine: {', '.join(there)}"


def check_forward(cfg: DictConfig, task: Supervised, data: InMemoryData) -> None:
    """Raise UserError if the model does not accept two samples, or does not return `num_outputs` values for each."""
    if cfg.compile:
        return  # the first call would compile, for minutes
    samples = data.example(2)
    training = task.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = task.eval()(samples)
    except Exception as error:  # a network may raise anything for an unsupported shape
        shape = f"samples of shape {tuple(samples.shape[1:])}"
        raise UserError(f"model: {cfg.model._target_} does not accept {shape}: {first_line(error)}") from error
    finally:
        task.train(training)
    needed = cfg.model.get("num_outputs") or cfg.task.num_outputs
    if tuple(outputs.shape) != task.output_shape(samples, needed):
        found = f"model: {cfg.model._target_} returns {tuple(outputs.shape[1:])} values per sample"
        raise UserError(f"{found}, but the task needs model.num_outputs={needed}")
    try:
        loss = task.loss(outputs, task.loss_target({"x": samples, "y": data.arrays.y[: len(samples)]}))
        if loss.ndim:
            raise ValueError(f"expected a scalar, got shape {tuple(loss.shape)}")
    except Exception as error:
        loss_name = f"task.loss: {cfg.task.loss._target_}"
        raise UserError(f"{loss_name} does not work with this task and data: {first_line(error)}") from error
    _check_metrics(task, outputs, data.arrays.y[: len(samples)])


def _check_metrics(task: Supervised, outputs: torch.Tensor, y: torch.Tensor) -> None:
    """Raise UserError if a metric of torchmetrics does not accept two samples, or is neither a number nor one per class."""
    for stage, metrics in (getattr(task, "metrics", None) or {}).items():
        for metric in (metric for metric in metrics if isinstance(metric, Metric)):
            name = f"task.metrics.{stage}: {type(metric).__name__}"
            try:
                metric.update(task.scores(outputs), task.metric_target(y))
            except Exception as error:  # torchmetrics raises ValueError, RuntimeError and others
                raise UserError(f"{name} does not work with this task and data: {first_line(error)}") from error
            value: object = None
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):  # two samples may be too few
                value = metric.compute()
            if isinstance(value, torch.Tensor) and value.ndim > 1:
                raise UserError(f"{name} has shape {tuple(value.shape)}; expected a number, or one for each class")
            metric.reset()


def check_rebuild(task: Supervised, data: InMemoryData, compressed: bool) -> None:
    """Raise UserError if the recorded spec does not rebuild the same task."""
    where = "the recorded model"
    recorded = load_task_from_spec(task.task_spec, task.state_dict(), where)
    if compressed:  # a compressed file holds only the network's weights
        recorded.preprocess = build_task_from_spec(task.task_spec, where).preprocess
    require_same_outputs(task, recorded, held_out_samples(data, 8), where)


def check_augmentation(cfg: DictConfig, task: pl.LightningModule, transforms: nn.Module | None, batch: object) -> None:
    """Raise UserError if augmentation, test-time augmentation or the loss reject four training samples."""
    batch = {key: part[:4] for key, part in as_dict(batch).items() if isinstance(part, Tensor)}
    training, generator = task.training, torch.Generator().manual_seed(int(cfg.seed))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if transforms is not None:
                _check_augmented(cfg, task, batch, transforms(batch, generator))
            if isinstance(task, Supervised) and task.tta is not None:
                task.average_views([task.eval()(view) for view in task.tta(batch, generator)])
    except UserError:
        raise
    except Exception as error:  # a transform may raise anything for unsupported samples
        raise UserError(
            f"augmentation={cfg.choices.get('augmentation')}: it does not work for samples of shape "
            f"{tuple(batch['x'].shape[1:])} with this model and task: {first_line(error)}"
        ) from error
    finally:
        task.train(training)


def _check_augmented(cfg: DictConfig, task: pl.LightningModule, batch: Batch, augmented: Batch) -> None:
    """Whether the loss of a task of ours takes the augmented batch; any other task must get targets as it has them."""
    chosen = cfg.choices.get("augmentation")
    if isinstance(task, Supervised):
        with manifold_mixup(task.eval().model, augmented):
            task.loss(task(augmented["x"]), task.loss_target(augmented))
        return
    if batch["y"].ndim > 2 or batch["y"].shape == batch["x"].shape:
        raise UserError(
            f"augmentation={chosen}: targets {list(batch['y'].shape)} would not be changed with their inputs"
        )
    if batch.keys() != augmented.keys() or batch["y"].dtype != augmented["y"].dtype:
        needs = f"which only tasks derived from Supervised train on; {cfg.task['_target_']} is none"
        raise UserError(f"augmentation={chosen}: it mixes or adds targets, {needs}")


def check_optimizer(cfg: DictConfig, task: Supervised, data: InMemoryData) -> None:
    """Raise UserError if optimizer or scheduler reject their settings; both are built only for this check."""
    epochs, limit, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps, data.steps_per_epoch()
    total = steps * max(epochs if epochs is not None else 1000, 1)
    room = "optimizer"
    try:
        optimizer = instantiate(cfg.optimizer, _partial_=True)(list(task.parameters()))
        room = "scheduler"
        if (schedule := build_scheduler(cfg)) is not None:
            schedule(optimizer, max(1, min(total, limit) if limit > 0 else total), steps)
    except UserError:
        raise
    except Exception as error:  # torch raises ValueError, TypeError and others
        raise UserError(f"{room} ({cfg[room]._target_}): {first_line(error)}") from error
