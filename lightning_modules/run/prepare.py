"""Check and build all parts of a run; every mistake that can be found before the first step is found here.

Longer than 200 lines: one order of checks, each of which needs what the ones before it have built.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import ModelSummary
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules.config.check import check_config
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.config.task_groups import is_supervised
from lightning_modules.config.trust import untrusted
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.run import build
from lightning_modules.run.compression import Compression, build_compression
from lightning_modules.run.contracts import (
    LoaderIndex,
    MonitoredMetric,
    Services,
    check_services,
    find_services,
    monitor_of,
    watched_metrics,
)
from lightning_modules.run.cuda import set_matmul_precision
from lightning_modules.run.data_adapter import RunData, open_data
from lightning_modules.run.lightning_task import EpochSeeds, SetupLayers, check_checkpoint, module_spec
from lightning_modules.run.loggers import build_loggers
from lightning_modules.run.preflight import check_augmentation, check_device, check_parts
from lightning_modules.run.process import is_rank_zero, set_threads
from lightning_modules.task.batches import AugmentTraining
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.elastic import resume_after_restart
from lightning_modules.tracking.resume import ResumedRun, continue_run, load_weights, resume_run
from lightning_modules.tracking.resume_drift import resume_options
from lightning_modules.tracking.run_cache import CachedRun, find_cached_run, run_signature
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import Store, open_store, require_free_space
from lightning_modules.tracking.tags import SIGNATURE_TAG


@dataclass(frozen=True)
class RunParts:
    """What a run consists of.

    Attributes:
        store: None with ``tracking=none``.
        spec: plain values from which the task is rebuilt, in each checkpoint.
        resumed: None for a new run.
        tags: of its record.
    """

    cfg: DictConfig
    store: Store | None
    data: RunData
    task: pl.LightningModule
    spec: PlainDict
    services: Services
    callbacks: list[pl.Callback]
    compression: Compression
    resumed: ResumedRun | None
    tags: Mapping[str, str]

    @property
    def own(self) -> tuple[Supervised, InMemoryData] | None:
        """Task and data, if the task is one of ours; `FirstBatch` stands for another's data."""
        samples = self.data.own or self.data.samples
        return (self.task, samples) if isinstance(self.task, Supervised) and samples else None

    @property
    def is_recorded(self) -> bool:
        """Whether this process records the run."""
        return self.store is not None and is_rank_zero()


def prepare(
    cfg: DictConfig, tags: Mapping[str, str], extra: Sequence[pl.Callback], continue_in: str | None, skip_cached: bool
) -> RunParts:
    """Check the config, build the parts and check them; arguments and errors as in `run`."""
    store, resumed = _open(cfg, continue_in)
    cfg = resumed.cfg if resumed else cfg
    set_threads(cfg)
    set_matmul_precision(cfg)
    data = open_data(cfg)
    for key in ("overfit_batches", "use_distributed_sampler") if data.own else ():
        if cfg.trainer.get(key):
            raise UserError(
                f"trainer.{key}={cfg.trainer[key]}: our datamodules choose and divide their samples themselves; use "
                "debug=overfit, data.per_class or data.fraction"
            )
    resumed = resumed and resumed.check_data(data.fingerprint(), data.sizes())
    callbacks = [*build.build_callbacks(cfg), *extra]
    task, spec = build_task(cfg, data, callbacks)
    services = find_services(cfg, task, data)
    check_services(cfg, services)
    with tempfile.TemporaryDirectory() as folder:
        build_loggers(cfg, Path(folder) if store else None)
    _check_parts(cfg, task, data, callbacks, services)
    if (metric := monitor_of(cfg)) and metric in watched_metrics(cfg):
        callbacks.insert(0, MonitoredMetric(metric))
    if cfg.init_from:
        load_weights(store or open_store(cfg.tracking.get("uri")), str(cfg.init_from), task)
    compression = build_compression(cfg, task, data, spec, services.serving.lacks)
    marks = dict(tags)
    if skip_cached:
        data.known_fingerprint("sweep.skip_finished=true")
    if store:
        signature = run_signature(plain_config(cfg), data.fingerprint())
        if skip_cached and (cached := find_cached_run(store, cfg.tracking.experiment, signature)):
            raise CachedRun(cached)
        marks[SIGNATURE_TAG] = signature
        resumed = resumed or resume_after_restart(store, cfg, data.fingerprint(), marks, is_rank_zero())
        marks |= resumed.marks(signature) if resumed else {}
    if store and is_rank_zero():
        print(f"store: {mask_secrets(store.uri)}", flush=True)
    if is_rank_zero() and (lines := services.lines()):
        print("\n".join(["services that are off:", *(f"  {line}" for line in lines)]), flush=True)
    return RunParts(cfg, store, data, task, spec, services, callbacks, compression, resumed, marks)


def build_task(
    cfg: DictConfig, data: RunData, callbacks: list[pl.Callback]
) -> tuple[pl.LightningModule, dict[str, object]]:
    """Build the task, with the callbacks that it needs, and the spec from which it is rebuilt."""
    if data.own is None or not is_supervised(cfg):
        callbacks.append(EpochSeeds(cfg.seed))
    if not is_supervised(cfg):
        build.fill_from_data(cfg, data)
        task = build.build_lightning_module(cfg)
        data.take_loaders(task, trains=cfg.trainer.get("limit_train_batches") != 0)
        return task, module_spec(cfg)
    samples = data.own or data.read_samples(_look(cfg))
    build.infer_shapes(cfg, samples)
    own = build.build_task(cfg, samples, callbacks)
    own.seeds_epochs = data.own is not None
    own.task_spec = build.task_spec(cfg, samples)
    return own, own.task_spec


def _look(cfg: DictConfig) -> pl.Trainer:
    """A trainer for a look at the first batch, with the random numbers of the run."""
    check_device(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    return build.build_trainer(cfg, [], None, Path())


def _check_parts(
    cfg: DictConfig, task: pl.LightningModule, data: RunData, callbacks: list[pl.Callback], services: Services
) -> None:
    if data.own is None:
        callbacks.append(LoaderIndex())
    if isinstance(task, Supervised) and (samples := data.own or data.samples):
        check_parts(cfg, task, samples, callbacks)
        return
    check_device(cfg)
    if task.example_input_array is not None and not is_overridden("forward", task):  # which a summary calls
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, ModelSummary)]
    for callback in callbacks:
        if (name := getattr(callback, "needs", None)) and not (hasattr(task, name) or hasattr(data.module, name)):
            raise UserError(
                f"callbacks: {type(callback).__name__} needs '{name}', which tasks derived from Supervised have"
            )
    if cfg.choices.get("augmentation"):
        batch = data.first_batch(_look(cfg), task)
        transforms = build.build_augmentation(cfg.augmentation, data.module)
        check_augmentation(cfg, task, transforms, batch)
        callbacks.append(AugmentTraining(transforms, cfg.seed))
    if cfg.tracking.enabled:
        check_checkpoint(cfg, task, servable=not services.serving.lacks)
        callbacks += [] if services.serving.lacks else [SetupLayers(task)]


def _open(cfg: DictConfig, continue_in: str | None) -> tuple[Store | None, ResumedRun | None]:
    """Check the config, open the store, and find the run to resume."""
    with open_dict(cfg):
        cfg.resume = dict(zip(("run", "allow"), resume_options(cfg), strict=True))
    check_config(cfg)
    wanted, lead = cfg.resume.run, is_rank_zero()
    if not cfg.tracking.enabled:
        if wanted is not None:
            raise UserError(f"resume={wanted}: tracking=none has no record of the run; choose another tracking")
        return None, None
    store = open_store(cfg.tracking.get("uri"))
    for mistake in untrusted(cfg) if lead else ():
        print(f"warning: {mistake}", file=sys.stderr)
    if wanted is not None:
        resumed = resume_run(store, cfg, alone=lead)
        check_config(resumed.cfg)
        return store, resumed
    return store, continue_run(store, continue_in, cfg, alone=lead) if continue_in else None


def require_disk_space(parts: RunParts) -> None:
    """Raise UserError unless the store's disk has space for the checkpoints and `tracking.min_free_mb` more."""
    assert parts.store is not None
    checkpoints = 8 * sum(p.numel() * p.element_size() for p in parts.task.parameters())
    require_free_space(parts.store.folder, int(parts.cfg.tracking.min_free_mb * 1e6) + checkpoints)


def plain_config(cfg: DictConfig) -> PlainDict:
    """The resolved config of the run itself, without its sweep and claim."""
    return {key: value for key, value in to_plain(cfg).items() if key not in ("sweep", "search", "claim")}
