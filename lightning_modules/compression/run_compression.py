"""The compression of a run: what its stages work on, their part in the run's training, and their own fits after it.

Longer than 200 lines: what stages ask of a run is one interface.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelSummary
from pytorch_lightning.loggers import Logger
from torch import nn

from lightning_modules.compat.lightning import MultiProcessingLauncher
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.compression_callback import CompressionCallback
from lightning_modules.compression.plain_module import FirstBatchCheck, example_inputs, training_batches
from lightning_modules.compression.recipe import build_recipe, check_recipe
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.compression.stage_recorder import StageRecorder, measure_network
from lightning_modules.compression.stage_runner import StageRunner, calibration_batches, load_callback_states
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.run import build
from lightning_modules.run.compression import Compression, FitCall
from lightning_modules.run.contracts import has_part
from lightning_modules.run.data_adapter import RunData
from lightning_modules.run.lightning_task import EpochSeeds
from lightning_modules.task.batches import AugmentTraining
from lightning_modules.task.profiling import LatencyMonitor
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import LastCheckpoint, read_checkpoint
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.record import Record

_GO_ON = (
    "\n  the trained network of this run is kept: compress it in another way with touchstone compress {0}, or by the same "
    "command with init_from={0} trainer.max_epochs=0 and other settings of compression"
)
_NUM_EXAMPLES = 64  # raw samples that stages trace a network with


class RunCompression(Compression):
    """Implements `Compression`. Raises UserError if the recipe is invalid or a stage does not support the network."""

    def __init__(
        self, cfg: DictConfig, task: pl.LightningModule, run_data: RunData, spec: PlainDict, not_servable: str
    ) -> None:
        data: Any = run_data.module
        self._shards_itself = run_data.own is not None
        self._augmentation: list[pl.Callback] = []  # of a task that is not one of ours
        self.cfg, self.task, self.data = cfg, task, data
        self._parts = [part for part in ("val", "test") if has_part(task, run_data, part)]
        self.own = isinstance(task, Supervised)  # else any LightningModule, on any datamodule
        self.recipe = build_recipe(cfg.get("compression"))
        self._log: Callable[[dict[str, float], int], None] = lambda values, step: None
        self._steps: Callable[[], int] = lambda: 0  # optimizer steps of the run so far
        batches: Any = (calibration_batches, data) if self.own else (training_batches, task, data)
        self.context = StageContext(
            task,
            CompressedState(),
            example=data.example(min(_NUM_EXAMPLES, len(data.arrays.x))) if self.own else example_inputs(task),
            batches=functools.partial(*batches, cfg.seed),
            evaluate=self._monitored,
            higher_is_better=cfg.task.monitor.mode == "max",
            seed=int(cfg.seed),
            log=lambda values: self._log(values, self._steps()),
            module=str(cfg.compression.get("module") or "model"),
            spec=spec if self.own else {**spec, "module": cfg.compression.get("module") or "model"},
            not_servable=not_servable,
        )
        self._callback = CompressionCallback(self.context, self.recipe.in_fit)
        num_outputs = int(cfg.model.get("num_outputs") or cfg.task.num_outputs) if self.own else 0
        example = self.context.preprocess(data.example(2) if self.own else self.context.example)
        check_recipe(self.recipe, self.context, example, num_outputs, cfg.task.monitor.metric)
        # where the run's own training prunes, what it gives is compressed already
        self._dense = copy.deepcopy(self.context.model) if self.recipe.keeps_last else None
        if any(stage.needs_initial for stage in self.recipe.stages):
            self.context.initial = copy.deepcopy(self.context.model.state_dict())

    # --- around the run's own training -----------------------------------------------------------------------
    def record_in(self, folder: Path, log: Callable[[dict[str, float], int], None] | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.context.folder = folder
        self._log = log or self._log

    def callbacks(self, given: Sequence[pl.Callback]) -> list[pl.Callback]:
        if not self.own:
            self._augmentation = [c for c in given if isinstance(c, AugmentTraining)]
            given = [*given, FirstBatchCheck(self.recipe.stages, self.context.preprocess)]
        if not self.recipe.in_fit:
            return list(given)
        if self.recipe.keeps_last:
            given = [c for c in given if not _keeps_best(c)]
        return [*given, *self.recipe.in_fit, self._callback]

    def needs(self, callback: pl.Callback) -> bool:
        return bool(self.recipe.in_fit) and isinstance(callback, LastCheckpoint)  # forked processes leave states there

    def begin(self) -> None:
        for stage in self.recipe.in_fit:
            stage.begin(self.context)
        self.context.state.apply(self.context.model)

    def end(self, last: Path) -> None:
        if self.recipe.in_fit:  # ranks that have exited left the stages' states in the checkpoint
            load_callback_states(last, [self._callback, *self.recipe.in_fit])
        for stage in self.recipe.in_fit:
            stage.end(self.context)
        self.context.state.apply(self.context.model)

    # --- after it --------------------------------------------------------------------------------------------
    def evaluate(
        self,
        record: Record | None,
        logger: Logger | None,
        folder: Path,
        fit: FitCall,
        trainer: pl.Trainer,
        tested: dict[str, float],
    ) -> dict[str, float]:
        recipe, lead = self.recipe, trainer.is_global_zero
        if not recipe.compresses:
            return {}
        first = steps_done(trainer, folder / "last.ckpt")
        fit_stage = functools.partial(self._fit_stage, fit, logger)
        runner = StageRunner(recipe, self.context, fit_stage, folder, lead, first, getattr(logger, "flush", None))
        self._steps = lambda: runner.steps
        recorder = self._recorder(record, tested) if lead else None
        if recorder and not recipe.after:
            recorder.add(1, recipe.in_fit[-1], first)
        try:
            for number, stage, known in runner.run():
                if recorder and not (known and number < len(recipe.after)):
                    recorder.add(number, stage, runner.steps + number)
        except UserError as error:  # found only with the trained weights
            raise UserError(f"{error}{_GO_ON.format(record.run_id)}" if record else str(error)) from error
        if recorder is None:
            return {}
        metrics = recorder.finish(tested)
        runner.clean()
        return metrics

    def _recorder(self, record: Record | None, tested: dict[str, float]) -> StageRecorder:
        dense, metrics = self._dense, {}
        if not self.recipe.keeps_last and tested:  # else no dense network was trained
            metrics = {name: value for name, value in tested.items() if name.startswith("test/")}
            metrics |= self._measure(self.context.model, *(("val",) if self.own else ("val", "test")))
        dense = (dense or copy.deepcopy(self.context.model)).cpu().eval()
        return StageRecorder(self.context, self.data, record, dense, self.recipe.runtimes, metrics, self._measure)

    def _fit_stage(
        self,
        fit: FitCall,
        logger: Logger | None,
        stage: Stage,
        acting: list[pl.Callback],
        place: Path,
        checkpoint: Path | None,
    ) -> tuple[int, bool]:
        """Train the network for a stage, see `FitFunction`: the run's own trainer without what selects the best weights."""
        own = [c for c in build.build_callbacks(self.cfg) if not _selects_best(c)]
        own += [] if self.own else [EpochSeeds(self.cfg.seed), *self._augmentation]
        own = [build.CheckpointFolders(place, place), *own]
        if logger is None:
            own = [c for c in own if isinstance(c, LastCheckpoint) or not build.needs_run_folder(c)]
        cfg = copy.deepcopy(self.cfg)
        with open_dict(cfg):
            cfg.trainer.max_epochs, cfg.trainer.max_steps = stage.epochs, -1
        extra = {} if self.own else {"passport": dict(self.context.spec)}
        trainer = build.build_trainer(cfg, [*own, *acting], logger, place, extra, shards_itself=self._shards_itself)
        if not self.own:
            pl.seed_everything(self.cfg.seed, workers=True, verbose=False)  # `setup` may draw a split
        with self._own_rate(stage), _stage_logger(logger, self._steps(), stage.name):
            fit(trainer, self.task, self.data, checkpoint)
        return steps_done(trainer, place / "last.ckpt"), _is_forked(trainer)

    @contextmanager
    def _own_rate(self, stage: Stage) -> Iterator[None]:
        before = getattr(self.task, "_optimizer", None)
        if stage.lr is not None and before is not None:
            self.task._optimizer = functools.partial(before, lr=stage.lr)  # type: ignore[assignment] # of ours
        try:
            yield
        finally:
            if before is not None:
                self.task._optimizer = before

    # --- measuring a network in the task's place -------------------------------------------------------------
    def _monitored(self, model: nn.Module) -> float:
        values, metric = self._measure(model, "val"), self.cfg.task.monitor.metric
        if metric not in values:
            what = "there is no validation set: data.val_fraction=0.1" if self.own else "the validation does not log it"
            raise UserError(f"compression: {metric} is needed, but {what}")
        return values[metric]

    def _measure(self, model: nn.Module, *parts: str) -> dict[str, float]:
        """The metrics of a network on the parts ``val`` and ``test``, as far as they have samples."""
        found: dict[str, float] = {}
        for part in parts:
            if part in self._parts:
                found |= measure_network(self.context, model, self.data, part, str(self.cfg.trainer.accelerator))
        return found


def steps_done(trainer: pl.Trainer, last: Path) -> int:
    """Optimizer steps of a fit. Where its ranks were forked, this process knows them from their last checkpoint only."""
    return int(read_checkpoint(last)["global_step"] if _is_forked(trainer) and last.exists() else trainer.global_step)


def _is_forked(trainer: pl.Trainer) -> bool:
    return isinstance(trainer.strategy.launcher, MultiProcessingLauncher)


@contextmanager
def _stage_logger(logger: Logger | None, first_step: int, stage: str) -> Iterator[None]:
    """Let the steps of a stage's fit come after those of the run, and what it measures on the test part bear its name."""
    if isinstance(logger, BufferedMLflowLogger):
        logger.first_step, logger.stage = first_step, stage
    try:
        yield
    finally:
        if isinstance(logger, BufferedMLflowLogger):
            logger.first_step, logger.stage = 0, ""


def _keeps_best(callback: pl.Callback) -> bool:
    return isinstance(callback, Checkpoint) and not isinstance(callback, LastCheckpoint)


def _selects_best(callback: pl.Callback) -> bool:
    return _keeps_best(callback) or isinstance(callback, EarlyStopping | ModelSummary | LatencyMonitor)
