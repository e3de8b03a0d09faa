"""The stages of a run: what they work on, their part in the run's training, and their own fits."""

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelSummary
from torch import Tensor, nn

from lightning_modules.compat.lightning import MultiProcessingLauncher
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.compression_callback import CompressionCallback
from lightning_modules.compression.recipe import Recipe, build_recipe, check_recipe
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.compression.stage_runner import StageRunner
from lightning_modules.config.errors import UserError
from lightning_modules.run import build
from lightning_modules.run.compression import FitCall
from lightning_modules.task.profiling import LatencyMonitor
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import LastCheckpoint, read_checkpoint

_NUM_EXAMPLES = 64  # raw samples that stages trace a network with


class StageFits:
    """The compression recipe of a run, before, during and after its training. Does nothing without stages.

    Raises UserError if a stage does not support the network.
    """

    def __init__(self, cfg: DictConfig, task: Supervised, data: Any) -> None:
        self.cfg, self.task, self.data = cfg, task, data
        self.recipe: Recipe = build_recipe(cfg.get("compression"))
        self.folder = Path(tempfile.gettempdir())
        self.log: Callable[[dict[str, float], int], None] = lambda values, step: None
        self.steps: Callable[[], int] = lambda: 0  # optimizer steps of the run so far
        self.context = self._work()
        self._main = CompressionCallback(self.context, self.recipe.in_fit)
        if self.recipe.stages:
            preprocess = self.context.preprocess(data.example(2))
            check_recipe(self.recipe, task.model, preprocess, int(cfg.model.num_outputs))
        for stage in self.recipe.stages:
            stage.check_task(task)
        # where the run's own training prunes, what it gives is compressed already
        self.dense = copy.deepcopy(task.model) if self.recipe.keeps_last else None
        if any(stage.needs_initial for stage in self.recipe.stages):
            self.context.initial = copy.deepcopy(task.model.state_dict())

    def _work(self) -> StageContext:
        return StageContext(
            task=self.task,
            state=CompressedState(),
            example=self.data.example(min(_NUM_EXAMPLES, len(self.data.arrays.x))),
            batches=functools.partial(calibration_batches, self.data, self.cfg.seed),
            evaluate=self._evaluate,
            higher_is_better=self.cfg.task.monitor.mode == "max",
            seed=int(self.cfg.seed),
            folder=self.folder,
            log=self._log,
        )

    def _log(self, values: dict[str, float]) -> None:
        self.log(values, self.steps())

    def record_in(self, folder: Path, log: Callable[[dict[str, float], int], None] | None) -> None:
        """Where the stages' pictures and tables go, and their metrics."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = self.context.folder = folder
        self.log = log or self.log

    # --- around the run's own training -----------------------------------------------------------------------
    def callbacks(self, given: Sequence[pl.Callback]) -> list[pl.Callback]:
        """The callbacks of the run's own training: those given, and what the stages need there."""
        if not self.recipe.in_fit:
            return list(given)
        if self.recipe.keeps_last:
            given = [c for c in given if not (isinstance(c, Checkpoint) and not isinstance(c, LastCheckpoint))]
        return [*given, *self.recipe.in_fit, self._main]

    def needs(self, callback: pl.Callback) -> bool:
        """Whether a callback is needed though nothing is recorded: forked processes leave what they made in a checkpoint."""
        return bool(self.recipe.in_fit) and isinstance(callback, LastCheckpoint)

    def begin(self) -> None:
        """Let the stages that act in training begin; not in a run that is resumed."""
        for stage in self.recipe.in_fit:
            stage.begin(self.context)
        self.context.state.apply(self.context.model)

    def end(self, last: Path) -> None:
        """Finish the stages that acted in training; ranks that have exited left the stages' states in the checkpoint `last`."""
        if self.recipe.in_fit and last.exists():
            states = read_checkpoint(last)["callbacks"]
            self._main.load_state_dict(states[self._main.state_key])
            for stage in self.recipe.in_fit:
                if stage.state_key in states:
                    stage.load_state_dict(states[stage.state_key])
        for stage in self.recipe.in_fit:
            stage.end(self.context)
        self.context.state.apply(self.context.model)

    # --- after training -----------------------------------------------------------------------------------------
    def phases(self, folder: Path, logger: Any, first_step: int, fit: FitCall, writes: bool) -> StageRunner:
        """The stages that begin now; `folder` takes the points to go on from."""
        phases: StageRunner

        def train(
            stage: Stage, keeper: CompressionCallback, stages: list[Stage], place: Path, checkpoint: Path | None
        ) -> int:
            trainer = self._trainer(stage, [*stages, keeper], place, logger)
            with self._own_rate(stage), _stage_logger(logger, phases.steps, stage.name):
                fit(trainer, self.task, self.data, checkpoint)
            phases.forked = isinstance(trainer.strategy.launcher, MultiProcessingLauncher)
            return steps_done(trainer, place / "last.ckpt")

        phases = StageRunner(
            self.recipe, self.context, train, folder, writes, first_step, getattr(logger, "flush", None)
        )
        self.steps = lambda: phases.steps
        return phases

    def _trainer(self, stage: Stage, acting: Sequence[pl.Callback], place: Path, logger: Any) -> pl.Trainer:
        """A trainer for the fit of a stage: the run's own, but for what chooses weights or stops by validation."""
        own = [c for c in build.build_callbacks(self.cfg) if not _selects_best(c)]
        build.set_checkpoint_folders(own, place, place)
        cfg = copy.deepcopy(self.cfg)
        with open_dict(cfg):
            cfg.trainer.max_epochs, cfg.trainer.max_steps = stage.epochs, -1
        if logger is None:
            own = [c for c in own if isinstance(c, LastCheckpoint) or not build.needs_run_folder(c)]
        return build.build_trainer(cfg, [*own, *acting], logger, place)

    @contextmanager
    def _own_rate(self, stage: Stage) -> Iterator[None]:
        before = self.task._optimizer
        if stage.lr is not None and before is not None:
            self.task._optimizer = functools.partial(before, lr=stage.lr)
        try:
            yield
        finally:
            self.task._optimizer = before

    # --- measuring a network in the task's place -------------------------------------------------------------
    def _evaluate(self, model: nn.Module) -> float:
        metric = self.cfg.task.monitor.metric
        values = self.validated(model)
        if metric not in values:
            raise UserError(f"compression: {metric} is needed, but there is no validation set: data.val_fraction=0.1")
        return values[metric]

    def validated(self, model: nn.Module) -> dict[str, float]:
        """The metrics of a network on the validation part; none where there is no such part."""
        return self._measured(model, "validate", "val")

    def quality(self, model: nn.Module) -> dict[str, float]:
        """The metrics of a network on the validation and the test part."""
        return self.validated(model) | self._measured(model, "test", "test")

    def _measured(self, model: nn.Module, verb: str, part: str) -> dict[str, float]:
        if not len(self.data.splits[part]):
            return {}
        return measure_network(self.task, model, self.data, verb, str(self.cfg.trainer.accelerator))


def measure_network(task: Supervised, model: nn.Module, data: Any, verb: str, accelerator: str) -> dict[str, float]:
    """The metrics of ``trainer.test`` or ``trainer.validate`` of a network in the task's place, in this one process."""
    from lightning_modules.compression.profiling import is_onnx_model

    before, task.model = task.model, model
    kept = task.test_buffer
    settings: Any = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    device = "cpu" if is_onnx_model(model) else accelerator
    trainer = pl.Trainer(accelerator=device, devices=1, use_distributed_sampler=False, **settings)
    try:
        getattr(trainer, verb)(task, datamodule=data, verbose=False)
    finally:
        task.model, task.test_buffer = before, kept
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def steps_done(trainer: pl.Trainer, last: Path) -> int:
    """Optimizer steps of a fit. Where its ranks were forked, this process knows them from their last checkpoint only."""
    if isinstance(trainer.strategy.launcher, MultiProcessingLauncher) and last.exists():
        return int(read_checkpoint(last)["global_step"])
    return int(trainer.global_step)


def calibration_batches(data: Any, seed: int) -> Iterator[dict[str, Tensor]]:
    """The training batches in an order that depends on the seed alone, not augmented."""
    arrays, index = data.arrays, data.splits["train"]
    order = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))]
    for part in order.split(data.batch_size):
        if data.drop_single and len(part) == 1:
            return
        yield {"x": arrays.x.index_select(0, part), "y": arrays.y.index_select(0, part), "index": part}


@contextmanager
def _stage_logger(logger: Any, first_step: int, stage: str) -> Iterator[None]:
    """Let the steps of a stage's fit come after those of the run, and what it measures on the test part bear its name."""
    if not hasattr(logger, "first_step"):
        yield
        return
    logger.first_step, logger.stage = first_step, stage
    try:
        yield
    finally:
        logger.first_step, logger.stage = 0, ""


def _selects_best(callback: pl.Callback) -> bool:
    best = isinstance(callback, Checkpoint) and not isinstance(callback, LastCheckpoint)
    return best or isinstance(callback, EarlyStopping | ModelSummary | LatencyMonitor)
