"""Classification: binary, multiclass and multilabel."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.metrics import classification_metrics, samples_per_class, select_metrics
from lightning_modules.task.supervised import Supervised

VAL_METRICS = ("accuracy",)
TEST_METRICS = ("accuracy", "top_k", "precision", "recall", "f1", "auroc", "class_accuracy")


class Classification(Supervised):
    """Logits [B, C] (binary: [B, 1]) against classes int64 [B], or against labels float [B, L] (multilabel).

    Args:
        kind: ``multiclass`` (cross entropy), ``binary`` (one logit) or ``multilabel`` (one logit per label).
        label_smoothing: in [0, 1); Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
        class_weights: None, ``balanced`` (n / (C * n_c), from the training split), or one number per class.
        class_counts: number of training samples of each class, [C].
        metrics: metric names for ``val`` and ``test``, see `metrics.py`; null means the default.
        top_k: k of the metric ``top_k``: correct if the class is among the k highest scores.
    """

    train_metric_names = ("accuracy",)

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        kind: Literal["multiclass", "binary", "multilabel"] = "multiclass",
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        class_weights: str | Sequence[float] | None = None,
        class_counts: Tensor | None = None,
        class_names: Sequence[str] | None = None,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        top_k: Count = 5,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        self.kind, self.num_outputs, self.top_k = kind, num_outputs, top_k
        self.class_names = list(class_names) if class_names else None
        self.metrics = select_metrics(metrics, {"val": VAL_METRICS, "test": TEST_METRICS})
        self.label_smoothing = label_smoothing
        if label_smoothing and self.kind == "multiclass":
            if not hasattr(self.loss, "label_smoothing"):
                raise UserError(
                    f"task.label_smoothing={label_smoothing}: {type(self.loss).__name__} does not support label smoothing"
                )
            self.loss.label_smoothing = label_smoothing
        self._set_class_weights(class_weights, class_counts)

    def _set_class_weights(self, class_weights: str | Sequence[float] | None, counts: Tensor | None) -> None:
        if class_weights is None:
            return
        if isinstance(class_weights, str):
            if class_weights != "balanced" or counts is None or self.kind != "multiclass":
                raise UserError(
                    f"task.class_weights={class_weights}: expected 'balanced' (multiclass, our data), a number per class, or null"
                )
            weights = counts.sum() / (len(counts) * counts.clamp(min=1).float())
        else:
            weights = torch.tensor([float(w) for w in class_weights])
        if len(weights) != self.num_outputs:
            raise UserError(f"task.class_weights: got {len(weights)} numbers for {self.num_outputs} outputs")
        name = "weight" if self.kind == "multiclass" else "pos_weight"
        if not hasattr(self.loss, name):
            raise UserError(f"task.class_weights: {type(self.loss).__name__} has no argument {name}")
        setattr(self.loss, name, weights)

    def loss_target(self, batch: Batch) -> Tensor:
        y = batch["y"]
        if self.kind == "multiclass":
            return y
        y = y.float().reshape(len(y), self.num_outputs)
        smooth = self.training and self.label_smoothing
        return y * (1 - self.label_smoothing) + self.label_smoothing / 2 if smooth else y

    def scores(self, outputs: Tensor) -> Tensor:
        scores = self._probabilities(outputs)
        return scores.squeeze(-1) if self.kind == "binary" else scores

    def average_views(self, views: Sequence[Tensor]) -> Tensor:
        mean = torch.stack([self._probabilities(outputs.float()) for outputs in views]).mean(0)
        return mean.log() if self.kind == "multiclass" else mean.logit(eps=1e-7)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1) if self.kind == "multiclass" else outputs.sigmoid()

    def metric_target(self, y: Tensor) -> Tensor:
        return y if self.kind == "multiclass" else y.int()

    def train_metric_sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.kind == "multiclass":
            hard = y if y.ndim == 1 else y.argmax(-1)
            return (outputs.argmax(-1) == hard).sum(0, keepdim=True).float()
        right = (outputs > 0) == (y.reshape(outputs.shape) > 0.5)
        return right.float().mean(-1).sum(0, keepdim=True)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss against unsmoothed labels: smoothing applies to training only."""
        if self.kind != "multiclass" or not self.label_smoothing:
            return super().evaluation_loss(outputs, y)
        self.loss.label_smoothing = 0.0
        try:
            return super().evaluation_loss(outputs, y)
        finally:
            self.loss.label_smoothing = self.label_smoothing

    def build_metrics(self, stage: str) -> MetricCollection:
        return classification_metrics(self.kind, self.num_outputs, self.metrics[stage], self.top_k)

    def classes_without_samples(self, y: Tensor) -> list[str]:
        counts = samples_per_class(self.metric_target(y), self.kind, self.num_outputs)
        if self.kind == "binary":
            counts = torch.cat([len(y) - counts, counts])
        names = self.class_names or [str(i) for i in range(len(counts))]
        return [name for name, count in zip(names, counts.tolist(), strict=False) if not count]

    def output_name(self, i: int) -> str:
        names = self.class_names or []  # the model may have more outputs than there are classes
        return names[i] if i < len(names) else str(i)
