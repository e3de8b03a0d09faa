"""Runs of the task room: composed and built as train.py does it, with the points kept in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from lightning_modules.config.command_line import compose_run
from lightning_modules.run import build
from lightning_modules.task.supervised import Supervised

SMALL = (
    "data.per_class=12",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "callbacks=last",
    "~callbacks.last",
)
QUIET = ("~callbacks.progress", "~callbacks.summary", "~callbacks.learning_rate")


class Points(Logger):
    """A logger that keeps (step, name, value) in order."""

    name, version = "points", 0

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, str, float]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        timeless = {name: value for name, value in metrics.items() if not name.startswith("throughput/")}
        self.points += [(int(step or 0), name, float(value)) for name, value in timeless.items()]


class Fitted(NamedTuple):
    trainer: pl.Trainer
    task: Supervised
    data: Any
    points: list[tuple[int, str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def predict(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets of a part, sample by sample in its order, without the evaluation loop."""
        arrays = self.data.arrays
        x, y = arrays.test if part == "test" and arrays.test else (arrays.x, arrays.y)
        index = self.data.splits[part]
        with torch.no_grad():
            outputs = torch.cat([self.task.eval()(x[i : i + 1]) for i in index])
        return outputs, y[index]


@pytest.fixture
def build_run(tmp_path: Path) -> Callable[..., Fitted]:
    """Compose and build what the overrides say, small and without a record."""
    torch.set_num_threads(1)

    def make(*overrides: str, small: bool = True, callbacks: tuple[Any, ...] = ()) -> Fitted:
        cfg = compose_run([*(SMALL if small else SMALL[1:]), *QUIET, *overrides])
        data = build.build_data(cfg)
        build.infer_shapes(cfg, data)
        used = [*build.build_callbacks(cfg), *callbacks]
        task, logger = build.build_task(cfg, data, used), Points()
        return Fitted(build.build_trainer(cfg, used, logger, tmp_path), task, data, logger.points)

    return make


@pytest.fixture
def fit(build_run: Callable[..., Fitted]) -> Callable[..., Fitted]:
    """The same, trained and tested."""

    def train(*overrides: str, **how: Any) -> Fitted:
        run = build_run(*overrides, **how)
        run.trainer.fit(run.task, datamodule=run.data)
        if len(run.data.splits["test"]):
            seen = dict(run.trainer.callback_metrics)
            run.trainer.test(run.task, datamodule=run.data, verbose=False)
            run.trainer.callback_metrics.update(seen)
        return run

    return train
