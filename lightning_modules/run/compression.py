"""Compression as a run sees it. The room `compression/` implements it and is imported only if a recipe has stages."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from lightning_modules.run.data_adapter import RunData
from lightning_modules.tracking.record import Record

# trains a task with a trainer from a checkpoint, in processes that end with it; returns the metrics
FitCall = Callable[[pl.Trainer, pl.LightningModule, pl.LightningDataModule, Path | None], dict[str, float]]


class Compression:
    """The compression recipe of a run, before, during and after its training; this one has no stages."""

    def callbacks(self, given: Sequence[pl.Callback]) -> list[pl.Callback]:
        """The callbacks of the run's training: those given, and those of the stages that act in it."""
        return list(given)

    def needs(self, callback: pl.Callback) -> bool:
        """Whether a callback is needed even if nothing is recorded."""
        return False

    def record_in(self, folder: Path, log: Callable[[dict[str, float], int], None] | None) -> None:
        """Set the folder of the stages' figures and tables, and where they log metrics."""

    def begin(self) -> None:
        """Start the stages that act in training; not in a resumed run."""

    def end(self, last: Path) -> None:
        """Finish these stages after training, whose last checkpoint is `last`."""

    def evaluate(
        self,
        record: Record | None,
        logger: Logger | None,
        folder: Path,
        fit: FitCall,
        trainer: pl.Trainer,
        tested: dict[str, float],
    ) -> dict[str, float]:
        """Run the stages after training; save, test and record each network; return the metrics of the last one.

        Args:
            record: None on processes that do not record; they only take part in the fits.
            folder: for the checkpoints from which an interrupted run resumes.
            tested: the metrics of the trained network.
        """
        return {}


def build_compression(
    cfg: DictConfig, task: pl.LightningModule, data: RunData, spec: Mapping[str, object], not_servable: str
) -> Compression:
    """The compression of a config. Raises UserError if its recipe is invalid or does not support the network.

    `spec`: from which the task is rebuilt; `not_servable`: why it cannot be served.
    """
    recipe = cfg.get("compression") or {}
    if set(recipe) <= {"stages", "runtimes", "module"} and not any((recipe.get("stages") or {}).values()):
        return Compression()
    implementation = get_class("lightning_modules.compression.run_compression.RunCompression")
    return implementation(cfg, task, data, spec, not_servable)
