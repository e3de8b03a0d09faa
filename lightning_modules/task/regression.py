"""Regression of one or several values."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.data.in_memory import Batch
from lightning_modules.task.metrics import regression_metrics, select_metrics
from lightning_modules.task.supervised import Supervised

METRICS = ("mse", "rmse", "mae", "r2")


class Regression(Supervised):
    """Values [B, D] against targets float [B] or [B, D]; `metrics` names those of ``val`` and ``test``."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int = 1,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        self.num_outputs = num_outputs
        self.metrics = select_metrics(metrics, {"val": METRICS, "test": METRICS})

    def loss_target(self, batch: Batch) -> Tensor:
        return batch["y"].float().reshape(-1, self.num_outputs)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1) if self.num_outputs == 1 else outputs

    def metric_target(self, y: Tensor) -> Tensor:
        return y.float().reshape(-1) if self.num_outputs == 1 else y.float()

    def build_metrics(self, stage: str) -> MetricCollection:
        return regression_metrics(self.num_outputs, self.metrics[stage])
