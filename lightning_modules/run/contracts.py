"""What each service of a run needs beyond what Lightning requires, detected by presence.

A run trains any LightningModule on any LightningDataModule. Where a service lacks what it needs, it is off, and the run
says so before its first step.

Longer than 200 lines: each service is a few lines, and one table.
"""

import inspect
from dataclasses import dataclass

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.errors import UserError, did_you_mean, warn
from lightning_modules.config.task_groups import is_supervised
from lightning_modules.run.data_adapter import NOT_KNOWN, RunData
from lightning_modules.run.lightning_task import with_configured_layers
from lightning_modules.run.named_forward import NamedForward
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.logger import allowed_name

_OBJECT = "a record cannot rebuild the {} given in Python"
_SUPERVISED_OPTIONS = {"steps_per_call": ("auto", 1), "decay_norms_and_biases": (True,), "cuda_graphs": (False,)}
_MODEL_OPTIONS = {"compile": (False,), "channels_last": (False,)}
_WHOLE_DATA = "only for our datamodules, which hold a whole data set"
_OURS_ONLY = "only for tasks derived from Supervised, with our datamodules"


@dataclass(frozen=True)
class Service:
    """A service of a run. `lacks`: why it is off; empty if it is on."""

    name: str
    lacks: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.lacks or 'on'}"


@dataclass(frozen=True)
class Services:
    """What a run does for its task and data beside training and recording."""

    rerun: Service
    best_weights: Service
    test: Service
    known_data: Service
    serving: Service
    export: Service
    augmentation: Service
    tta: Service
    compression: Service
    fast_loop: Service
    whole_data: Service

    def lines(self) -> list[str]:
        """Those that are off, a line each."""
        return [str(service) for service in vars(self).values() if service.lacks]


def find_services(cfg: DictConfig, task: pl.LightningModule, data: RunData) -> Services:
    """The services that a run with this task and data has. Raises UserError if it monitors what it does not validate."""
    own = isinstance(task, Supervised) and data.own is not None
    iterates = "dataloader_iter" in inspect.signature(task.training_step).parameters
    objects = " and ".join(group for group in ("task", "data") if "object_class" in (cfg.get(group) or {}))
    logs_val = is_supervised(cfg) or has_part(task, data, "val") or is_overridden("on_train_epoch_end", task)
    not_servable = "" if isinstance(task, Supervised) else _serving_lacks(cfg, task)
    return Services(
        rerun=Service("rerun and resume", _OBJECT.format(objects) if objects else ""),
        best_weights=Service("best weights", _best_lacks(cfg, logs_val)),
        test=Service("test", _test_lacks(task, data)),
        known_data=Service("data fingerprint", NOT_KNOWN if data.is_declared else ""),
        serving=Service("serving", not_servable),
        export=Service("export", "it needs what serving needs" if not_servable else ""),
        augmentation=Service("augmentation", "the task takes batches from dataloader_iter itself" if iterates else ""),
        tta=Service("tta", "" if isinstance(task, Supervised) else "only for tasks derived from Supervised"),
        compression=Service("compression", "" if own else _compression_lacks(cfg, task, data)),
        fast_loop=Service("fast loop", "" if own else f"{_OURS_ONLY}; Lightning's ordinary loop is used"),
        whole_data=Service("data clean and split", "" if data.own is not None else _WHOLE_DATA),
    )


def check_services(cfg: DictConfig, services: Services) -> None:
    """Raise UserError if the config asks for a service that the task and data do not support."""
    asked = {
        "augmentation": (cfg.get("augmentation") or {}).get("_target_") and cfg.choices.get("augmentation"),
        "tta": (cfg.get("tta") or {}).get("_target_") and cfg.choices.get("tta"),
        "compression": any(((cfg.get("compression") or {}).get("stages") or {}).values())
        and cfg.choices.get("compression"),
    }
    unused = {} if is_supervised(cfg) else _SUPERVISED_OPTIONS | ({} if cfg.get("model") else _MODEL_OPTIONS)
    for key in (key for key, usual in unused.items() if cfg.get(key, usual[0]) not in usual):
        raise UserError(f"{key}={cfg[key]}: only for tasks derived from Supervised, or with a model; remove it")
    for group, chosen in asked.items():
        service: Service = getattr(services, group)
        if chosen and service.lacks:
            raise UserError(f"{group}={chosen}: {service.lacks}; use {group}=none")


def monitor_of(cfg: DictConfig) -> str | None:
    """The metric by which the best weights are selected, or None."""
    metric = OmegaConf.select(cfg, "task.monitor.metric")
    return None if metric is None else str(metric)


def watched_metrics(cfg: DictConfig) -> set[str]:
    """The metrics that the callbacks of the config monitor."""
    return {str(node.monitor) for node in (cfg.callbacks or {}).values() if node and node.get("monitor")}


class MonitoredMetric(EarlyStopping):
    """Names the metric of ``task.monitor`` that is not logged, and stops nothing.

    An EarlyStopping, because Lightning calls these after the hooks of the module and of other callbacks, which may log it.
    """

    def __init__(self, metric: str) -> None:
        super().__init__(metric)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and not _is_due_by_epoch(trainer):
            self._require(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _is_due_by_epoch(trainer):
            self._require(trainer)

    def _require(self, trainer: pl.Trainer) -> None:
        logged = sorted(trainer.callback_metrics)
        if self.monitor not in logged:
            parts = [name for name in logged if name.startswith(f"{self.monitor}/dataloader_idx_")]
            hint = f"did you mean '{parts[0]}'?" if parts else did_you_mean(self.monitor, logged)
            every = ", ".join(logged) or "nothing"
            raise UserError(f"task.monitor.metric={self.monitor}: not logged; {hint} logged are: {every}")

    def state_dict(self) -> StateDict:
        return {}  # nothing of it belongs in a checkpoint


def _is_due_by_epoch(trainer: pl.Trainer) -> bool:
    """Whether metrics are due at the end of each training epoch, rather than of a validation."""
    validates = trainer.enable_validation and (trainer.val_dataloaders is None or any(trainer.num_val_batches))
    return not validates or bool(trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0)


class LoaderIndex(pl.Callback):
    """Rejects several loaders of a step without ``dataloader_idx`` before the first step.

    Lightning looks at those of the test only after the training. Loaders that cannot be requested yet, because Lightning has
    not set up the test, are left to it.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part, name in (("val", "validation_step"), ("test", "test_step")):
            data = trainer.datamodule  # type: ignore[attr-defined]
            takes_index = is_param_in_hook_signature(getattr(pl_module, name), "dataloader_idx")
            if takes_index or not is_overridden(f"{part}_dataloader", data) or not is_overridden(name, pl_module):
                continue
            if getattr(trainer, f"limit_{part}_batches") == 0:
                continue
            try:
                with isolate_rng():
                    loaders = getattr(data, f"{part}_dataloader")()
            except Exception:  # of a user's code
                warn(f"the number of {part} loaders is not known yet; several would fail: {name} has no dataloader_idx")
                continue
            if (count := len(CombinedLoader(loaders).flattened)) > 1:
                raise UserError(
                    f"task: there are {count} {part} loaders, so {type(pl_module).__name__}.{name} needs the argument "
                    "dataloader_idx=0"
                )


def _best_lacks(cfg: DictConfig, logs_val: bool) -> str:
    metric = monitor_of(cfg)
    if metric and (allowed := allowed_name(metric)) != metric:
        raise UserError(f"task.monitor.metric={metric}: MLflow does not allow this name; log the metric as '{allowed}'")
    if metric and metric.startswith(("val_", "val/", "valid_", "valid/")) and not logs_val:
        raise UserError(
            f"task.monitor.metric={metric}: nothing is validated: there are no validation data, or no validation_step; "
            "choose a metric of training_step, or task.monitor.metric=null"
        )
    if metric is None:
        return "the last weights are kept: set task.monitor.metric and task.monitor.mode to a metric that the task logs"
    return "" if watched_metrics(cfg) else "the last weights are kept: no callback monitors a metric"


def _test_lacks(task: pl.LightningModule, data: RunData) -> str:
    if not is_overridden("test_step", task):
        return "the task has no test_step"
    return "" if has_part(task, data, "test") else "there are no test data"


def has_part(task: pl.LightningModule, data: RunData, part: str) -> bool:
    """Whether the task has a step and data for ``val`` or ``test``."""
    step = "validation_step" if part == "val" else "test_step"
    return is_overridden(step, task) and data.has(part)


def _compression_lacks(cfg: DictConfig, task: pl.LightningModule, data: RunData) -> str:
    if isinstance(task, Supervised):
        return _OURS_ONLY
    if "object_class" in cfg.task:
        return _OBJECT.format("task")
    name, children = str(OmegaConf.select(cfg, "compression.module") or "model"), dict(task.named_children())
    lacks = [_test_lacks(task, data)]
    if not isinstance(task.example_input_array, Tensor):
        lacks.insert(0, "the task has no example_input_array (a tensor)")
    if name not in dict(task.named_modules()):
        lacks.insert(0, f"the task has no module '{name}': set compression.module to one of {', '.join(children)}")
    return "; ".join(filter(None, lacks))


def _serving_lacks(cfg: DictConfig, task: pl.LightningModule) -> str:
    try:
        if "object_class" in cfg.task:
            raise UserError(_OBJECT.format("task"))
        NamedForward(task if task.example_input_array is None else with_configured_layers(task))
    except UserError as error:
        return f"the checkpoint is kept, but cannot be served: {error}"
    return ""
