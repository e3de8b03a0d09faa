"""A LightningModule that is not one of ours: rebuilt from its config, seeded by epoch, and loaded from its checkpoints."""

import copy
import functools
import io
from collections.abc import Callable, Mapping

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from torch.nn.parameter import is_lazy
from torch.utils.data import IterableDataset

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.errors import UserError, first_line, warn
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.config.task_groups import OPTIONAL_GROUPS
from lightning_modules.config.trust import refuse_untrusted
from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.run.build import build_lightning_module
from lightning_modules.run.named_forward import require_same_module_outputs
from lightning_modules.task.rng import seed_epoch
from lightning_modules.tracking.checkpoint import call_load_hook, plain_hyperparameters
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.tags import RESUME_TAG


class EpochSeeds(pl.Callback):
    """Seeds the global generators from (seed, epoch): a resumed run shuffles and drops out as an uninterrupted one.

    A loader draws its order when it is iterated: in the first epoch of a fit before any hook, later after the hook of the
    epoch's start. So the loaders are seeded where they are requested, too, and the steps get a stream of their own.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._resumed_epoch = 0
        self._seeded_epoch = -1  # where its loaders were requested

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        # the trainer counts it only after it has requested the loaders
        self._resumed_epoch = int(checkpoint["epoch"]) + 1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data is not None:
            data.train_dataloader = self._seeded(data.train_dataloader, trainer, pl_module)

    def _seeded(
        self, loaders: Callable[[], object], trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> Callable[[], object]:
        @functools.wraps(loaders)
        def request() -> object:
            requested, epoch = loaders(), max(self._resumed_epoch, trainer.current_epoch)
            if trainer.is_global_zero and any(map(_has_own_order, _loaders_in(requested))):
                _tag_approximate(trainer)
            self._seeded_epoch = epoch
            seed_epoch(self._seed, 2 * epoch, trainer.global_rank, pl_module.device)
            return requested

        return request

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and (loaders := vars(data).get("train_dataloader") if data is not None else None):
            data.train_dataloader = getattr(loaders, "__wrapped__", loaders)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # the caller may give the same objects to another run

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self._seeded_epoch:
            seed_epoch(self._seed, 2 * trainer.current_epoch, trainer.global_rank, pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fit_loop.batch_idx < 0:
            raise UserError(f"data: train_dataloader gave no batch in epoch {trainer.current_epoch}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            seed_epoch(self._seed, 2 * trainer.current_epoch + 1, trainer.global_rank, pl_module.device)


class SetupLayers(pl.Callback):
    """Rejects weights that ``setup`` adds to the task: one rebuilt from its config and checkpoint has none."""

    def __init__(self, task: pl.LightningModule) -> None:
        self._names = set(with_configured_layers(task).state_dict())

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.restore_checkpoint_after_setup or not pl_module.strict_loading:
            return  # a strategy that shards parameters, and may rename them
        if added := [name for name in pl_module.state_dict() if name not in self._names]:
            raise UserError(
                f"task: setup adds {', '.join(added[:4])}, which a task rebuilt from its checkpoint lacks: make these "
                "layers in the constructor or in configure_model"
            )


def _loaders_in(requested: object) -> list[object]:
    combined = requested if isinstance(requested, CombinedLoader) else CombinedLoader(requested)
    return list(combined.flattened)


def _has_own_order(loader: object) -> bool:
    """Whether (seed, epoch) does not determine the order of a loader: a stream, or one with a generator of its own."""
    sampler = getattr(loader, "sampler", None)
    own = getattr(loader, "generator", None) or getattr(sampler, "generator", None)
    return (own is not None and not isinstance(sampler, BatchSampler)) or isinstance(
        getattr(loader, "dataset", None), IterableDataset
    )


def _tag_approximate(trainer: pl.Trainer) -> None:
    warn("exact resume: off, because a training loader is a stream, or has a generator of its own")
    if isinstance(trainer.logger, BufferedMLflowLogger):
        trainer.logger.experiment.set_tag(trainer.logger.version, RESUME_TAG, "approximate")


def module_spec(cfg: DictConfig) -> dict[str, object]:
    """Plain values in each checkpoint from which the module is rebuilt: its config and that of the groups it uses."""
    plain = to_plain(cfg)
    groups = {group: plain[group] for group in OPTIONAL_GROUPS if plain.get(group)}
    return {"name": plain["name"], "seed": plain["seed"], "task": plain["task"], **groups}


def is_module_spec(spec: Mapping[str, object]) -> bool:
    """Whether a spec is one of `module_spec`, rather than of a task of ours."""
    return "preprocess" not in spec


def load_module_from_spec(spec: Mapping[str, object], checkpoint: StateDict, where: str) -> pl.LightningModule:
    """Rebuild a module with its weights, in evaluation mode.

    Args:
        spec: of `module_spec`.
        checkpoint: as Lightning writes it, with ``state_dict``.
        where: names the file in messages.

    Raises:
        UserError: a target is not allowed, or the weights do not match.
    """
    task = build_module_from_spec(spec, where)
    load_weights_from_checkpoint(task, checkpoint, where)
    return task.eval()


def with_configured_layers(task: pl.LightningModule) -> pl.LightningModule:
    """The task, or a copy with the layers of its ``configure_model``. Raises UserError if that fails without a trainer."""
    if not is_overridden("configure_model", task):
        return task
    try:
        copied = copy.deepcopy(task)
        with isolate_rng():
            copied.configure_model()
    except Exception as error:  # of a user's code
        raise UserError(f"configure_model fails on a copy without a trainer: {first_line(error)}") from error
    return copied


def build_module_from_spec(spec: Mapping[str, object], where: str) -> pl.LightningModule:
    """The module without its weights. Raises UserError if a target is not allowed."""
    config = OmegaConf.create({"compile": False, **spec})
    refuse_untrusted(config, where)
    with isolate_rng(include_cuda=False):
        return build_lightning_module(config)


def load_weights_from_checkpoint(task: pl.LightningModule, checkpoint: StateDict, where: str) -> None:
    """Load a whole state dict as Lightning's ``load_from_checkpoint`` does. Raises UserError if it does not match."""
    call_load_hook(task, checkpoint, where)
    try:
        task.load_state_dict(checkpoint["state_dict"], strict=task.strict_loading)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:500]
        raise UserError(f"{where} does not match the task: {first}") from error


def check_checkpoint(cfg: DictConfig, task: pl.LightningModule, servable: bool) -> None:
    """Raise UserError if checkpoints of this task could not be read again: they hold plain values and tensors only.

    A `servable` task is also rebuilt from its config and must give the same outputs.
    """
    task = with_configured_layers(task) if servable else task
    if lazy := [name for name, weight in task.named_parameters() if is_lazy(weight)]:
        raise UserError(
            f"task: the shapes of {', '.join(lazy[:4])} are not known: set example_input_array to a tensor of zeros, "
            "or call the lazy layers once in the constructor"
        )
    kept, dropped = plain_hyperparameters(dict(task.hparams))
    if dropped:
        print(f"hyper-parameters that are objects are left out of the checkpoints: {', '.join(dropped)}", flush=True)
    usual: PlainDict = {"epoch": 0, "global_step": 0, "state_dict": task.state_dict(), "hyper_parameters": kept}
    trial = usual.copy()
    try:
        task.on_save_checkpoint(trial)
    except (RuntimeError, AttributeError):  # it needs the trainer, which does not exist yet
        trial = {}
    for key, value in (trial or usual).items():
        if error := _reading_error(value):
            raise UserError(
                f"task: its checkpoint cannot be read again, because '{key}' holds more than tensors and plain values: "
                f"{error}; save tensors, numbers, strings, lists and dicts in on_save_checkpoint"
            )
    if servable:
        rebuilt = build_module_from_spec(module_spec(cfg), where := "the recorded task")
        if trial:
            load_weights_from_checkpoint(rebuilt, trial, where)
        else:
            (rebuilt := with_configured_layers(rebuilt)).load_state_dict(usual["state_dict"])
        require_same_module_outputs(task, rebuilt, where)


def _reading_error(value: object) -> str | None:
    """Why torch does not load `value` without unpickling, or None."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # pickle and torch raise many types
        return first_line(error)[:200]
    return None
