"""Checks on a GPU: `pytest -m gpu`, or `scripts/benchmark.py gpu`, which gives each file a process and a time limit.

Files that do not name CUDA run on a machine without a GPU too, where the benchmark uses them to try the package.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint

SMALL = ("tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary")


@pytest.fixture
def fit(train: Callable[..., Any]) -> Callable[..., Any]:
    """Train on the GPU, or on the CPU of a machine without one; return MLflow's run."""

    def launch(*overrides: str) -> Any:
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        return train(*SMALL, f"trainer={accelerator}", "trainer.max_epochs=1", *overrides, quick=False)

    return launch


@pytest.fixture
def weights(store: Any) -> Callable[[Any], dict[str, torch.Tensor]]:
    """The best weights of a run."""
    return lambda run: read_checkpoint(best_checkpoint(store, run))["state_dict"]


@pytest.fixture
def scores() -> Callable[[Any], dict[str, float]]:
    """The metrics of a run that do not depend on the clock."""
    return lambda run: {k: v for k, v in run.data.metrics.items() if k.split("/")[0] in ("train", "val", "test")}
