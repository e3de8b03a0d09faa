"""One run from top to bottom: check -> build -> fit -> test -> compress -> record."""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers.logger import DummyLogger

from lightning_modules.config.check import check_config
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT
from lightning_modules.config.signals import SignalReceived, signals_as_exceptions
from lightning_modules.config.trust import untrusted
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.data.table_input import TableInput
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.run import build
from lightning_modules.run.compression import RunCompression
from lightning_modules.run.compression_results import evaluate_stages
from lightning_modules.run.cuda import explain_out_of_memory, set_matmul_precision
from lightning_modules.run.preflight import check_parts
from lightning_modules.run.publish import draw_augmented, draw_curves, print_report, publish
from lightning_modules.run.test_plots import TestPlots
from lightning_modules.strategy.launch.environment import restore_environment
from lightning_modules.strategy.launch.launchers import terminate_ranks_on_error
from lightning_modules.strategy.launch.rendezvous import renegotiate_port
from lightning_modules.task.profiling import model_size
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.elastic import report_once, resume_after_restart
from lightning_modules.tracking.record import Record, start_run
from lightning_modules.tracking.record_run import record_run
from lightning_modules.tracking.resume import ResumedRun, continue_run, load_weights, reopen_run, resume_run
from lightning_modules.tracking.resume_drift import resume_options
from lightning_modules.tracking.resume_rollback import RunSnapshot
from lightning_modules.tracking.run_cache import CachedRun, find_cached_run, run_signature
from lightning_modules.tracking.store import Store, find_run, open_store, require_free_space


def run(
    cfg: DictConfig,
    tags: Mapping[str, str] | None = None,
    extra: Sequence[pl.Callback] = (),
    continue_in: str | None = None,
    skip_cached: bool = False,
) -> dict[str, float]:
    """Train, test and record the run of a config; return the last value of each val and test metric.

    Args:
        tags: additional tags of the run.
        extra: additional callbacks, which are not recorded.
        go_on_in: id of an interrupted run of this same config, which is continued from its checkpoint, if any.
        skip_known: raise `Known` if a finished run with the same signature exists.

    Raises:
        UserError: every mistake that can be found before the first step, and a non-finite loss.
    """
    with restore_environment(), signals_as_exceptions():
        return _run(cfg, tags or {}, extra, continue_in, skip_cached)


def _run(
    cfg: DictConfig, tags: Mapping[str, str], extra: Sequence[pl.Callback], continue_in: str | None, skip_cached: bool
) -> dict[str, float]:
    _silence_lightning()
    with report_once(lead=_is_rank_zero()):
        with open_dict(cfg):
            cfg.resume = dict(zip(("run", "allow"), resume_options(cfg), strict=True))
        check_config(cfg)
        store = open_store(cfg.tracking.get("uri")) if cfg.tracking.enabled else None
        for mistake in untrusted(cfg) if store and _is_rank_zero() else ():
            print(f"warning: {mistake}", file=sys.stderr)
        resumed = None
        if store is None and cfg.resume.run is not None:
            raise UserError(f"resume={cfg.resume.run}: tracking=none has no record of the run; choose another tracking")
        if store and cfg.resume.run is not None:
            resumed = resume_run(store, cfg, alone=_is_rank_zero())
            cfg = resumed.cfg
            check_config(cfg)
        elif store and continue_in:
            resumed = continue_run(store, continue_in, cfg, alone=_is_rank_zero())
        _set_threads(cfg)
        set_matmul_precision(cfg)
        data = build.build_data(cfg)
        if resumed:
            resumed = resumed.check_data(data.fingerprint(), _split_sizes(data))
        build.infer_shapes(cfg, data)
        callbacks = [*build.build_callbacks(cfg), *extra]
        task = build.build_task(cfg, data, callbacks)
        task.task_spec = _task_spec(cfg, data)
        check_parts(cfg, task, data, callbacks)
        if cfg.init_from:
            load_weights(store or open_store(cfg.tracking.get("uri")), str(cfg.init_from), task)
        compression = RunCompression(cfg, task, data)
        marks = dict(tags)
        if store:
            signature = run_signature(_plain_config(cfg), data.fingerprint())
            if skip_cached and (known := find_cached_run(store, cfg.tracking.experiment, signature)):
                raise CachedRun(known)
            marks["touchstone.signature"] = signature
            resumed = resumed or resume_after_restart(store, cfg, data.fingerprint(), marks, _is_rank_zero())
            marks |= resumed.marks(signature) if resumed else {}
    renegotiate_port()
    if store is None or not _is_rank_zero():
        with explain_out_of_memory(cfg):
            return _without_record(cfg, task, data, callbacks, resumed, compression)
    _require_disk_space(cfg, store, task)
    with (
        record_run(lambda: _open_record(store, cfg, data, resumed, marks)) as record,
        explain_out_of_memory(cfg),
    ):
        return _with_record(cfg, task, data, callbacks, record, resumed, compression)


def _require_disk_space(cfg: DictConfig, store: Store, task: Supervised) -> None:
    """Raise UserError unless the store's disk has space for the checkpoints and `tracking.min_free_mb` more."""
    checkpoints = 8 * sum(p.numel() * p.element_size() for p in task.parameters())
    require_free_space(store.folder, int(cfg.tracking.min_free_mb * 1e6) + checkpoints)


def _with_record(
    cfg: DictConfig,
    task: Supervised,
    data: Any,
    callbacks: list[Any],
    record: Record,
    resumed: ResumedRun | None,
    compression: RunCompression,
) -> dict[str, float]:
    callbacks = compression.callbacks(callbacks)
    build.set_checkpoint_folders(callbacks, record.checkpoints, record.model_folder)
    compression.record_in(record.folder / "compression", record.logger.log_metrics)
    if cfg.tracking.get("pictures", True):
        callbacks = [*callbacks, TestPlots(record.folder / "pictures", data.class_names)]
    callbacks += [record.before] if record.before else []
    trainer = build.build_trainer(cfg, callbacks, record.logger, record.folder)
    record.logger.log_metrics(model_size(task.model), 0)
    if cfg.tracking.get("pictures", True) and trainer.is_global_zero:
        draw_augmented(record, data, task)
    metrics = _train(trainer, task, data, resumed, compression, record.checkpoints)
    if record.before:
        record.before.mark()  # failures from here on are not failures of the resume
    weights = _best_weights(trainer, task, record.model_folder, record.checkpoints)
    record.logger.attach_model(record.model_id)
    metrics |= _test(trainer, task, data, weights)
    if trainer.is_global_zero:
        record.logger.flush()
        publish(record, weights, data, task, metrics)
    metrics |= evaluate_stages(compression, record, record.logger, record.checkpoints, _fit, trainer, metrics)
    if trainer.is_global_zero:
        record.logger.flush()
        if cfg.tracking.get("pictures", True):
            draw_curves(record)
        print_report(record, task.task_spec, metrics)
    return metrics


def _without_record(
    cfg: DictConfig,
    task: Supervised,
    data: Any,
    callbacks: list[Any],
    resumed: ResumedRun | None,
    compression: RunCompression,
) -> dict[str, float]:
    """Train and test with ``tracking=none``, or on a rank other than 0."""
    folder = PROJECT_ROOT / "mlruns" / "work" / str(os.getpid())
    callbacks = compression.callbacks(callbacks)
    build.set_checkpoint_folders(callbacks, folder, folder)  # rank 0 broadcasts its own
    logger: DummyLogger | None = DummyLogger()
    if not cfg.tracking.enabled:
        callbacks, logger = [c for c in callbacks if compression.needs(c) or not build.needs_run_folder(c)], None
    trainer = build.build_trainer(cfg, callbacks, logger, folder)
    metrics = _train(trainer, task, data, resumed, compression, folder)
    metrics |= _test(trainer, task, data, None)
    compression.record_in(folder / "compression", None)
    metrics |= evaluate_stages(compression, None, logger, folder, _fit, trainer, metrics)
    shutil.rmtree(folder, ignore_errors=True)
    if trainer.is_global_zero:
        print_report(None, task.task_spec, metrics)
    return metrics


def _train(
    trainer: pl.Trainer,
    task: Supervised,
    data: Any,
    resumed: ResumedRun | None,
    compression: RunCompression,
    folder: Path,
) -> dict[str, float]:
    """Train, with the compression stages that act during training."""
    checkpoint = resumed.checkpoint if resumed else None
    if checkpoint is None:
        compression.begin()
    metrics = _fit(trainer, task, data, checkpoint)
    compression.take_over(folder / "last.ckpt")
    compression.end_of_training()
    return metrics


def _fit(trainer: pl.Trainer, task: Supervised, data: Any, checkpoint: Path | None) -> dict[str, float]:
    with terminate_ranks_on_error(trainer):
        trainer.fit(task, datamodule=data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def _best_weights(trainer: pl.Trainer, task: Supervised, folder: Path, checkpoints: Path) -> Path:
    """The file of the best weights; without a monitored metric, write the last ones."""
    best = folder / "best.ckpt"
    if best.exists():
        return best
    whole = checkpoints / "last.ckpt"
    trained = read_checkpoint(whole) if whole.exists() else {}
    last = folder / "last_weights.ckpt"
    if trainer.is_global_zero:
        counters = {
            key: trained.get(key, getattr(trainer, name))
            for key, name in (("epoch", "current_epoch"), ("global_step", "global_step"))
        }
        save_with_checksum({"state_dict": task.state_dict(), "passport": task.task_spec, **counters}, last)
    return last


def _test(trainer: pl.Trainer, task: Supervised, data: Any, weights: Path | None) -> dict[str, float]:
    """Test the saved weights, loaded back from disk."""
    path = trainer.strategy.broadcast(str(weights) if weights else None)
    if path is not None:
        checkpoint = read_checkpoint(Path(path))
        task.load_state_dict(checkpoint["state_dict"])
        task.tested_step = int(checkpoint["global_step"])
    if not len(data.splits["test"]):
        return {}
    with terminate_ranks_on_error(trainer):
        trainer.test(task, datamodule=data, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def _open_record(
    store: Store, cfg: DictConfig, data: Any, resumed: ResumedRun | None, tags: Mapping[str, str]
) -> Record:
    settings: Any = OmegaConf.to_container(cfg.tracking, resolve=True)
    before = None
    if resumed:
        run_id, model_id = resumed.run_id, resumed.model_id
        before = RunSnapshot(store, run_id)
        reopen_run(store, run_id, tags)
    else:
        parent = {"touchstone.init_from": find_run(store, str(cfg.init_from)).info.run_id} if cfg.init_from else {}
        run_id, model_id = start_run(store, cfg.tracking.experiment, cfg.name, {**tags, **parent})
    record = None
    try:
        record = Record(store, run_id, model_id, settings, before)
        if resumed and resumed.drift:
            print(f"{resumed.wanted}: resuming with accepted differences: {resumed.accepted}", flush=True)
            logging.getLogger("touchstone").warning("resumed with accepted differences: %s", resumed.accepted)
        plain = _plain_config(cfg)
        overrides = plain.pop("overrides", [])
        record.describe(plain, overrides, {"name": data.name, "fingerprint": data.fingerprint(), **_split_sizes(data)})
    except BaseException as error:  # the run exists and must not stay RUNNING
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        if record is not None:
            record.finish(status, error)
        elif before is None or not before.restore(store):
            store.client.set_terminated(run_id, status)
        raise
    return record


def _split_sizes(data: Any) -> dict[str, int]:
    return {f"{part}_samples": len(index) for part, index in data.splits.items()}


def _plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of the run itself, without its sweep and claim."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in plain.items() if key not in ("sweep", "search", "claim")}


def _task_spec(cfg: DictConfig, data: Any) -> dict[str, Any]:
    """Plain values in each checkpoint from which model, task and preprocessing are rebuilt without the data."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    task = {key: value for key, value in plain["task"].items() if key != "monitor"}
    names = {"class_names": data.class_names} if data.num_classes else {}
    columns = getattr(data, "columns", None)
    table = {"inputs": TableInput(tuple(columns), data.arrays.x.dtype).plain()} if columns else {}
    return {
        "name": plain["name"],
        "model": plain["model"],
        "task": {**task, **names},
        "preprocess": preprocess_spec(data.preprocess),
        **table,
    }


def _is_rank_zero() -> bool:
    """Whether this is the process that records: rank 0."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def _set_threads(cfg: DictConfig) -> None:
    """Set the number of threads; one if a strategy sets those of its processes itself (`strategy/ddp.py`)."""
    if cfg.strategy.get("_target_") and cfg.trainer.accelerator != "gpu":
        torch.set_num_threads(1)
    elif cfg.cpu_threads:
        torch.set_num_threads(cfg.cpu_threads)


def _silence_lightning() -> None:
    """Silence Lightning's advice that does not apply: batches come from memory, checkpoints are overwritten on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # we report ended ranks ourselves
    expected = (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`isinstance.treespec, LeafSpec.*",
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*Total length of `list` across ranks is zero.*",
        ".*No (positive|negative) samples in targets.*",  # `task/supervised.py` names the classes
        ".*module.s. in eval mode at the start.*",
        ".*The `srun` command is available on your system but is not used.*",
        ".*keys will be ignored. You need to call.*",  # under manual optimization a plateau schedule is stepped by the task
    )
    for text in expected:
        warnings.filterwarnings("ignore", text)


__all__ = ["SignalReceived", "run"]
