"""Build the datamodule, the task and the trainer of one run from its config.

Longer than 200 lines: one function for each part of a run.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint, ModelSummary, ProgressBar
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from lightning_modules.compat.lightning import notify_ranks_by_signal
from lightning_modules.compat.torch import BatchNorm
from lightning_modules.config.check import RUN_KEYS
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import to_plain
from lightning_modules.config.signature import locate, parameters_of, require_lightning_type
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.optimizer.lr_schedules import plan_schedule
from lightning_modules.run.cuda import CudaGraphs, PeakMemory, uses_cuda
from lightning_modules.run.data_adapter import FirstBatch, RunData, open_data
from lightning_modules.task.fast_loop import FastLoop
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import BestCheckpoint, VerifiedCheckpointIO
from lightning_modules.tracking.record_run import StopOnSignal


def build_data(cfg: DictConfig) -> InMemoryData:
    """Build a datamodule of ours and read its data. Raises UserError if it is missing, or another kind of datamodule."""
    data = open_data(cfg)
    if data.own is None:
        raise UserError(
            f"data={data.name}: this reads and splits the whole data set, for which {type(data.module).__name__} must be "
            "derived from lightning_modules.data.in_memory.InMemoryData"
        )
    return data.own


def fill_from_data(cfg: DictConfig, data: RunData) -> None:
    """Set the arguments of model and task that are null in the config to the datamodule's attributes of that name."""
    known = {key: getattr(data.module, key, None) for key in ("num_classes", "num_targets")}
    outputs = {"num_outputs": next((value for value in known.values() if value is not None), None)}
    with open_dict(cfg):
        for room in ("model", "task"):
            for key, value in (cfg.get(room) or {}).items():
                if value is None and not hasattr(pl.LightningDataModule, str(key)):
                    found = getattr(data.module, str(key), outputs.get(str(key)))
                    if isinstance(found, int | list | tuple):
                        cfg[room][key] = list(found) if isinstance(found, tuple) else found


def infer_shapes(cfg: DictConfig, data: InMemoryData) -> None:
    """Infer the input shape and the number of outputs from the data where the config leaves them open; else check them."""
    accepted, anything = parameters_of(locate(cfg.model["_target_"]))
    if isinstance(data, FirstBatch):
        _require_known_shapes(cfg, data, takes_shape=anything or "input_shape" in accepted)
    needed = _outputs_needed(cfg, data)
    with open_dict(cfg):
        chosen = cfg.model.get("num_outputs") or needed
        if cfg.task.get("num_outputs") is None:
            cfg.task.num_outputs = chosen
        shapes = {"num_outputs": chosen, "input_shape": list(data.input_shape)}
        settings = {**shapes, **getattr(data, "model_settings", dict)()}
        if "category_sizes" in settings and "category_sizes" not in accepted:
            hint = "has no argument category_sizes, by which a network embeds the last columns; try model=mlp"
            raise UserError(f"data.categories=embedding: model={cfg.choices.get('model')} {hint}")
        for key, value in settings.items():
            present = key in cfg.model or key == "category_sizes" or (key in shapes and (anything or key in accepted))
            if present and cfg.model.get(key) is None:
                cfg.model[key] = value
            if key == "category_sizes" and list(cfg.model[key]) != value:
                raise UserError(f"model.category_sizes={list(cfg.model[key])}: the categories of the data are {value}")
    if chosen < needed:
        raise UserError(
            f"model.num_outputs={chosen}: the data ({data.name}) needs {needed}"
            + (f" (classes: {', '.join(data.class_names[:12])})" if data.class_names else "")
        )


def _require_known_shapes(cfg: DictConfig, data: FirstBatch, takes_shape: bool) -> None:
    """Raise UserError for a shape that neither the config nor an attribute of another's datamodule gives."""
    shape, seen = getattr(data.source, "input_shape", None), list(data.input_shape)
    if takes_shape and cfg.model.get("input_shape") is None and list(shape or ()) != seen:
        hint = f"its samples have {seen}; set it, or model.input_shape={seen}"
        raise UserError(f"data: {data.name}.input_shape is {shape}, {hint}")
    if data.num_classes is None and data.has_classes and (kind := cfg.task.get("kind")) in ("multiclass", "binary"):
        given = cfg.model.get("num_outputs") or cfg.task.get("num_outputs") or getattr(data.source, "num_outputs", None)
        data.num_classes = 2 if kind == "binary" else given
        if data.num_classes is None:
            raise UserError(f"data: {data.name}.num_classes is missing; set it, or model.num_outputs=NUMBER of classes")


def _outputs_needed(cfg: DictConfig, data: InMemoryData) -> int:
    kind = cfg.task.get("kind", "regression")
    targets = f"task={cfg.choices.get('task', kind)}: the targets of {data.name} are"
    if kind in ("multiclass", "binary") and data.num_classes is None:
        raise UserError(f"{targets} not classes; try task=regression")
    if kind == "regression" and data.num_classes is not None and "kind" not in cfg.task:
        raise UserError(f"{targets} classes; try task=classification")
    if kind == "multilabel" and data.num_classes is not None:
        raise UserError(f"task=multilabel: a sample of {data.name} has one class; try task=classification")
    if kind == "binary" and data.num_classes != 2:
        raise UserError(f"task=binary: {data.name} has {data.num_classes} classes; try task=classification")
    return {"multiclass": data.num_classes or 0, "binary": 1}.get(kind, data.num_targets)


def build_model(cfg: DictConfig) -> nn.Module:
    """Instantiate the network; its weights depend only on `cfg.seed`."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    model: nn.Module = instantiate(cfg.model)
    if cfg.get("channels_last"):
        model.to(memory_format=torch.channels_last)
    if cfg.compile:
        model.compile()
    return model


def build_lightning_module(cfg: DictConfig) -> pl.LightningModule:
    """Instantiate a LightningModule that is not one of ours, with the groups that its constructor names."""
    accepted, _ = parameters_of(locate(cfg.task["_target_"]))
    given: dict[str, object] = {}
    if "model" in accepted and cfg.get("model") and "model" not in cfg.task:
        given["model"] = build_model(cfg)
    for group in ("optimizer", "scheduler"):
        if group in accepted and (cfg.get(group) or {}).get("_target_") and group not in cfg.task:
            given[group] = instantiate(cfg[group], _partial_=True)
    settings = {key: value for key, value in cfg.task.items() if key != "monitor"}
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    task = instantiate({"_convert_": "all", **settings}, _partial_=True)(**given)  # which it would convert
    require_lightning_type(task, pl.LightningModule, f"task: {cfg.task['_target_']}")
    return task


def build_task(cfg: DictConfig, data: InMemoryData, callbacks: list[pl.Callback], **loop: object) -> Supervised:
    """Instantiate one of our tasks around the model, with the data's preprocessing in it."""
    model = build_model(cfg)
    known = {"class_counts": data.class_counts, "class_names": data.class_names} if data.num_classes else {}
    steps = FastLoop.steps_per_call(cfg, data, model, callbacks)
    data.chunk = steps
    settings = {key: value for key, value in cfg.task.items() if key != "monitor"}
    task: Supervised = instantiate(
        OmegaConf.create(settings),
        model=model,
        preprocess=data.preprocess,
        augmentation=build_augmentation(cfg.augmentation, data) if cfg.choices.get("augmentation") else None,
        tta=build_augmentation(cfg.tta, data) if (cfg.get("tta") or {}).get("_target_") else None,
        optimizer=instantiate(cfg.optimizer, _partial_=True),
        scheduler=build_scheduler(cfg),
        decay_norms_and_biases=cfg.decay_norms_and_biases,
        seed=cfg.seed,
        batch_size=data.batch_size,
        steps_per_call=steps,
        log_every_n_steps=cfg.trainer.log_every_n_steps or 50,
        **known,
        **loop,
    )
    over_ranks = cfg.trainer.get("sync_batchnorm") and (cfg.trainer.devices, cfg.trainer.num_nodes) != (1, 1)
    data.drop_single = not over_ranks and _with_synced_batch_norm(task, data)
    return task


def build_scheduler(cfg: DictConfig) -> Callable[..., object] | None:
    """The schedule of the config, which takes the optimizer and the planned steps; None without one."""
    if not (cfg.scheduler or {}).get("_target_"):
        return None
    accepted, _ = parameters_of(locate(cfg.scheduler["_target_"]))
    settings = {key: cfg.scheduler[key] for key in RUN_KEYS["scheduler"] & set(cfg.scheduler) - accepted.keys()}
    node = {key: value for key, value in cfg.scheduler.items() if key not in settings}
    return partial(plan_schedule, instantiate(node, _partial_=True), settings)


def task_spec(cfg: DictConfig, data: InMemoryData) -> dict[str, object]:
    """Plain values in each checkpoint from which model, task and preprocessing are rebuilt without the data."""
    plain = to_plain(cfg)
    task = {key: value for key, value in plain["task"].items() if key != "monitor"}
    names = {"class_names": data.class_names} if data.num_classes else {}
    inputs = getattr(data, "inputs", None)
    shapes = {"input_shape": list(data.input_shape), "num_outputs": plain["task"]["num_outputs"]}  # of a plain network
    shapes |= {key: value for key, value in getattr(data, "model_settings", dict)().items() if key in shapes}
    return {
        "name": plain["name"],
        "model": plain["model"],
        "task": {**task, **names},
        "preprocess": preprocess_spec(data.preprocess),
        **({} if {"input_shape", "num_outputs"} <= set(plain["model"]) else {"shapes": shapes}),
        **({"inputs": inputs.plain()} if inputs else {}),
    }


def _with_synced_batch_norm(task: Supervised, data: InMemoryData) -> bool:
    """Whether the network has a batch norm that would normalize over a single value for a batch of one sample (torch raises).

    Raises UserError if every batch has one sample.
    """
    norms = [layer for layer in task.model.modules() if isinstance(layer, BatchNorm) and layer.training]
    single: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        single.append(inputs[0].numel() == inputs[0].shape[1])

    handles = [layer.register_forward_pre_hook(look) for layer in norms]
    training = [layer for layer in task.modules() if layer.training]
    try:
        if norms:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
                task.eval().model.forward(task.preprocess(data.example(1)))  # what fails is reported by `check_forward`
    finally:
        for handle in handles:
            handle.remove()
        for layer in training:
            layer.training = True
    if any(single) and (data.batch_size == 1 or len(data.splits["train"]) == 1):
        raise UserError(
            f"data.batch_size={data.batch_size}: the network has a batch norm, which cannot be trained on batches of one "
            f"sample (the training part has {len(data.splits['train'])}); use at least 2"
        )
    return any(single)


def build_augmentation(node: DictConfig, data: object) -> nn.Module:
    """Instantiate transforms and prepare them for the data. Raises UserError if these lack what a transform reads."""
    transforms = instantiate(node)
    if (text := getattr(getattr(data, "inputs", None), "categories", None)) and node.get("transforms", True):
        raise UserError(f"augmentation: it would change the codes of columns of text: {', '.join(text)}; drop these")
    if hasattr(transforms, "prepare"):
        try:
            transforms.prepare(getattr(data, "source", data))
        except AttributeError as error:
            raise UserError(
                f"augmentation: {error}, which a transform reads; add this attribute to the datamodule"
            ) from error
    return transforms


def build_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """Instantiate the callbacks of the config; null entries are switched off."""
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node]
    for key, callback in zip((k for k, node in (cfg.callbacks or {}).items() if node), callbacks, strict=True):
        require_lightning_type(callback, pl.Callback, f"callbacks.{key}")
        if key == "best" and type(callback) is ModelCheckpoint:
            callback.__class__ = BestCheckpoint
    if uses_cuda(cfg):
        callbacks += [PeakMemory(), *([CudaGraphs()] if cfg.get("cuda_graphs") else [])]
    return callbacks


def build_trainer(
    cfg: DictConfig,
    callbacks: list[pl.Callback],
    logger: Logger | list[Logger] | None,
    folder: Path,
    checkpoint_extra: Mapping[str, object] | None = None,
    shards_itself: bool = True,
) -> pl.Trainer:
    """Instantiate the Trainer. Raises UserError if the device does not exist.

    Args:
        checkpoint_extra: plain values that are added to each checkpoint.
        shards_itself: whether the datamodule divides the samples between the ranks, as ours do.
    """
    # partial: instantiate would convert the objects to config nodes
    build = instantiate(cfg.trainer, _partial_=True, _convert_="all")
    plugins = build.keywords.get("plugins") or []
    trainer: pl.Trainer = build(
        callbacks=[StopOnSignal(), *callbacks],
        logger=logger or False,
        strategy=instantiate(cfg.strategy) if cfg.strategy.get("_target_") else "auto",
        default_root_dir=str(folder),
        use_distributed_sampler=build.keywords.get("use_distributed_sampler", not shards_itself),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=any(isinstance(callback, ModelSummary) for callback in callbacks),
        plugins=[
            *_cluster_plugins(),
            VerifiedCheckpointIO(checkpoint_extra),
            *(plugins if isinstance(plugins, list) else [plugins]),
        ],
    )
    for callback in callbacks:
        if isinstance(callback, CheckpointFolders):
            callback.set_folders(trainer)  # the process that starts the ranks looks for the files after a failure
    strategy: object = trainer.strategy
    if hasattr(strategy, "config"):  # the ranks compare their configs
        strategy.config = to_plain(cfg)
    profiler = trainer.profiler  # type: ignore[attr-defined] # set by Lightning's connector
    if profiler.dirpath is None:
        profiler.dirpath = folder / "profile"
    notify_ranks_by_signal(trainer)
    return trainer


def _cluster_plugins() -> list[object]:
    """Cluster environment: Lightning takes the tasks of every Slurm job for the ranks, but a single task starts its own ranks."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    return [LightningEnvironment()] if os.environ.get("SLURM_NTASKS") == "1" else []


def needs_run_folder(callback: pl.Callback) -> bool:
    """Whether a callback only writes checkpoints or logs, so that it is useless without a run folder."""
    return isinstance(callback, Checkpoint | LearningRateMonitor)


class CheckpointFolders(pl.Callback):
    """Sets the folder of each checkpoint callback: the logged model's for ``best.ckpt``, the run's for all others.

    Also of those that the module configures: they are known only when a fit begins. A user's own have a folder of theirs,
    so that their names are free.
    """

    def __init__(self, run_folder: Path, model_folder: Path) -> None:
        self._run_folder, self._model_folder = run_folder, model_folder

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.set_folders(trainer)

    def set_folders(self, trainer: pl.Trainer) -> None:
        """Set the folders of the callbacks that the trainer has now."""
        for callback in trainer.checkpoint_callbacks:
            if getattr(callback, "dirpath", "") is None:
                own = self._run_folder / "own" if isinstance(callback, ModelCheckpoint) else self._run_folder
                best = isinstance(callback, BestCheckpoint) and callback.monitor is not None
                callback.dirpath = str(self._model_folder if best else own)  # type: ignore[attr-defined]
