"""One run from top to bottom: check -> build -> fit -> test -> compress -> record.

Longer than 200 lines: the story of a run, and what each of its parts returns.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers.logger import DummyLogger, Logger

from lightning_modules.config.errors import UserError, warn
from lightning_modules.config.project import runs_folder
from lightning_modules.config.signals import SignalReceived, signals_as_exceptions
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.run import build
from lightning_modules.run.compression import Compression
from lightning_modules.run.contracts import has_part
from lightning_modules.run.cuda import explain_out_of_memory
from lightning_modules.run.lightning_task import load_weights_from_checkpoint
from lightning_modules.run.loggers import build_loggers
from lightning_modules.run.prepare import RunParts, plain_config, prepare, require_disk_space
from lightning_modules.run.process import is_rank_zero, silence_lightning
from lightning_modules.run.publish import draw_augmented, draw_curves, print_report, publish
from lightning_modules.run.test_plots import TestPlots
from lightning_modules.strategy.launch.environment import restore_environment
from lightning_modules.strategy.launch.launchers import terminate_ranks_on_error
from lightning_modules.strategy.launch.rendezvous import renegotiate_port
from lightning_modules.task.profiling import model_size
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.elastic import report_once
from lightning_modules.tracking.record import Record
from lightning_modules.tracking.record_run import open_record, record_run
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.tags import NOT_FINITE_TAG

_LIGHTNING_KEYS = ("pytorch-lightning_version", "hyper_parameters", "hparams_name", "hparams_type")  # of a checkpoint

__all__ = ["SignalReceived", "run"]


def run(
    cfg: DictConfig,
    tags: Mapping[str, str] | None = None,
    extra: Sequence[pl.Callback] = (),
    continue_in: str | None = None,
    skip_cached: bool = False,
    on_start: Callable[[str], object] | None = None,
) -> dict[str, float]:
    """Train, test and record the run of a config; return the last value of each val and test metric.

    Args:
        tags: additional tags of the run.
        extra: additional callbacks, which are not recorded.
        continue_in: id of an interrupted run of this same config, which is continued from its checkpoint, if any.
        skip_cached: raise `CachedRun` if a finished run with the same signature exists.
        on_start: called with the run's id when its record is open.

    Raises:
        UserError: every mistake that can be found before the first step, and a non-finite loss.
    """
    silence_lightning()
    with restore_environment(), signals_as_exceptions():
        with report_once(lead=is_rank_zero()):
            parts = prepare(cfg, tags or {}, extra, continue_in, skip_cached)
        renegotiate_port()
        with _open_outputs(parts) as out, explain_out_of_memory(parts.cfg):
            if out.record and on_start:
                on_start(out.record.run_id)
            trainer = _build_trainer(parts, out)
            metrics = _train(trainer, parts, out)
            weights = _best_weights(trainer, parts, out)
            metrics |= _test(trainer, parts, weights)
            if out.record and weights and trainer.is_global_zero:
                data = parts.own[1] if parts.own else parts.data.module
                publish(out.record, weights, data, parts.task, parts.services.serving.lacks, metrics)
            if not parts.own:
                _warn_if_not_finite(parts.task, metrics, out.record)
            metrics |= parts.compression.evaluate(out.record, out.logger, out.checkpoints, _fit, trainer, metrics)
            if trainer.is_global_zero:
                if out.record and _draws(parts):
                    draw_curves(out.record)
                print_report(out.record, str(parts.cfg.name), metrics)
        return metrics


@dataclass(frozen=True)
class _Outputs:
    """Where a run writes: its record, or a temporary folder with ``tracking=none`` and on ranks other than 0."""

    record: Record | None
    logger: Logger | None
    folder: Path
    checkpoints: Path
    model_folder: Path


@contextmanager
def _open_outputs(parts: RunParts) -> Iterator[_Outputs]:
    """The outputs of a run; a record gets the status with which the block ends."""
    if not parts.is_recorded:
        folder = runs_folder() / "work" / str(os.getpid())  # rank 0 broadcasts its own to the other ranks
        yield _Outputs(None, DummyLogger() if parts.store else None, folder, folder, folder)
        shutil.rmtree(folder, ignore_errors=True)
        return
    require_disk_space(parts)
    with record_run(lambda: _open_record(parts)) as record:
        yield _Outputs(record, record.logger, record.folder, record.checkpoints, record.model_folder)


def _open_record(parts: RunParts) -> Record:
    assert parts.store is not None
    of_data = parts.data
    data = {"name": of_data.name, "fingerprint": of_data.fingerprint(), **of_data.sizes(), **of_data.fold_part()}
    return open_record(parts.store, plain_config(parts.cfg), data, parts.resumed, parts.tags)


def _draws(parts: RunParts) -> bool:
    return bool(parts.cfg.tracking.get("pictures", True))


def _build_trainer(parts: RunParts, out: _Outputs) -> pl.Trainer:
    """The trainer of the run, with the callbacks of compression and of the record."""
    callbacks = parts.compression.callbacks(parts.callbacks)
    callbacks = [build.CheckpointFolders(out.checkpoints, out.model_folder), *callbacks]
    record = out.record
    if record:
        parts.compression.record_in(out.folder / "compression", record.logger.log_metrics)
        names = getattr(parts.data.module, "class_names", None)
        callbacks += [TestPlots(out.folder / "pictures", names)] if _draws(parts) else []
        callbacks += [record.before] if record.before else []
    elif not parts.store:
        callbacks = [c for c in callbacks if parts.compression.needs(c) or not build.needs_run_folder(c)]
    spec = {} if parts.own else {"passport": parts.spec}
    shards_itself = parts.data.own is not None
    trainer = build.build_trainer(parts.cfg, callbacks, _loggers(parts, out), out.folder, spec, shards_itself)
    if record:
        record.logger.log_metrics(model_size(parts.own[0].model if parts.own else parts.task), 0)
        if parts.own and parts.data.own and _draws(parts) and trainer.is_global_zero:
            draw_augmented(record, parts.own[1], parts.own[0])
    else:
        parts.compression.record_in(out.folder / "compression", None)
    return trainer


def _loggers(parts: RunParts, out: _Outputs) -> list[Logger]:
    """The record's logger, and those of the config, which also get the whole config."""
    if parts.store and not out.record:
        return [DummyLogger()]
    others = build_loggers(parts.cfg, out.folder if out.record else None)
    for logger in others:
        logger.log_hyperparams(dict(mask_secrets(plain_config(parts.cfg))))
    return [*([out.record.logger] if out.record else []), *others]


def _train(trainer: pl.Trainer, parts: RunParts, out: _Outputs) -> dict[str, float]:
    """Train, with the compression stages that act during training."""
    checkpoint = parts.resumed.checkpoint if parts.resumed else None
    if checkpoint is None:
        parts.compression.begin()
    if not parts.data.own:
        pl.seed_everything(parts.cfg.seed, workers=True, verbose=False)  # its setup may draw a split
    metrics = _fit(trainer, parts.task, parts.data.module, checkpoint)
    if not parts.data.own and trainer.max_epochs and trainer.limit_train_batches and not trainer.num_training_batches:
        raise UserError(f"data: the train_dataloader of {parts.data.name} has no batch: nothing was trained")
    parts.compression.end(out.checkpoints / "last.ckpt")
    if out.record and out.record.before:
        out.record.before.mark()  # failures from here on are not failures of the resume
    return metrics


def _fit(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, checkpoint: Path | None
) -> dict[str, float]:
    with terminate_ranks_on_error(trainer):
        trainer.fit(task, datamodule=data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def _warn_if_not_finite(task: pl.LightningModule, metrics: Mapping[str, float], record: Record | None) -> None:
    """Say which weights and metrics ended as NaN or infinite; our tasks end at the first such loss."""
    names = [name for name, weight in task.named_parameters() if not bool(weight.isfinite().all())]
    if names := [*names[:3], *(name for name, value in metrics.items() if not math.isfinite(value))]:
        if is_rank_zero():
            warn(f"warning: NaN or infinite at the end of the run: {', '.join(names)}")
        if record:
            record.send({"do": "tags", "tags": {NOT_FINITE_TAG: ", ".join(names)}})


def _best_weights(trainer: pl.Trainer, parts: RunParts, out: _Outputs) -> Path | None:
    """The file of the best weights; without a monitored metric, write the last ones. None without a record."""
    if out.record is None:
        return None
    out.record.logger.attach_model(out.record.model_id)
    best = out.model_folder / "best.ckpt"
    if best.exists():
        return best
    whole = out.checkpoints / "last.ckpt"
    trained = read_checkpoint(whole) if whole.exists() else {}
    last = out.model_folder / "last_weights.ckpt"
    if trainer.is_global_zero:
        counters = {
            key: trained.get(key, getattr(trainer, name))
            for key, name in (("epoch", "current_epoch"), ("global_step", "global_step"))
        }
        lightning = {key: trained[key] for key in _LIGHTNING_KEYS if key in trained}  # for its `load_from_checkpoint`
        weights = {**lightning, "state_dict": parts.task.state_dict(), "passport": dict(parts.spec), **counters}
        if not parts.own:
            parts.task.on_save_checkpoint(weights)
        save_with_checksum(weights, last)
    return last


def _test(trainer: pl.Trainer, parts: RunParts, weights: Path | None) -> dict[str, float]:
    """Test the saved weights, loaded back from disk; without training (``trainer.max_epochs=0``), also validate them."""
    path = trainer.strategy.broadcast(str(weights) if weights else None)
    if path is not None:
        checkpoint = read_checkpoint(Path(path))
        if parts.own:
            parts.task.load_state_dict(checkpoint["state_dict"])
            parts.own[0].tested_step = int(checkpoint["global_step"])
        else:
            load_weights_from_checkpoint(parts.task, checkpoint, str(path))
    passes = [] if parts.services.test.lacks else [trainer.test]
    if trainer.max_epochs == 0 and type(parts.compression) is Compression and has_part(parts.task, parts.data, "val"):
        passes.insert(0, trainer.validate)  # nothing was trained
    metrics: dict[str, float] = {}
    for evaluate in passes:
        if not parts.data.own:
            pl.seed_everything(parts.cfg.seed, workers=True, verbose=False)  # its setup draws the split of the training
        with terminate_ranks_on_error(trainer):
            evaluate(parts.task, datamodule=parts.data.module, verbose=False)
        metrics |= {key: float(value) for key, value in trainer.callback_metrics.items()}
    return metrics
