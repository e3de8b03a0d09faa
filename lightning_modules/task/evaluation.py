"""What tasks do in validation and test: buffer the predictions of an epoch, compute loss and metrics, and log them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.compat.lightning import has_trainer, set_metrics
from lightning_modules.config.errors import warn
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import PredictionBuffer, metric_suffixes
from lightning_modules.task.rng import derive_seed


class EvaluatedModule(pl.LightningModule):
    """A network with its preprocessing, loss and metrics. A task overrides the methods of the first section.

    Args:
        model: floats [B, *input_shape] -> [B, num_outputs].
        loss: (predictions, targets) -> scalar; the mean over samples.
        preprocess: raw x -> floats; part of the module, so that a checkpoint serves raw samples.
        seed: random numbers depend on it and on the epoch or step only, so that a resumed run repeats them.
    """

    tta: nn.Module | None

    def __init__(self, model: nn.Module, loss: nn.Module, preprocess: nn.Module | None, seed: int) -> None:
        super().__init__()
        self.model = model
        self.loss: Any = loss  # of any class: what some have, such as `label_smoothing`, is set
        self.preprocess = preprocess or nn.Identity()
        self.seed = seed
        self.generator = torch.Generator()
        self.prediction_buffers = {part: PredictionBuffer() for part in ("val", "test", "tta/test")}
        self.test_buffer: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # of the last test, see `_evaluate`
        self.tested_step = 0  # the step of the weights that are tested
        self._metrics: dict[str, MetricCollection] = {}
        self._warned: set[str] = set()  # parts

    # --- what a task defines -----------------------------------------------------------------------------------
    def build_metrics(self, stage: str) -> MetricCollection:
        """The torchmetrics of ``val`` or ``test``, computed once per epoch on all buffered predictions."""
        raise TypeError(f"{type(self).__name__} defines no metrics")

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        """The shape of the outputs for raw samples."""
        return (len(x), num_outputs)

    def loss_target(self, batch: Batch) -> Tensor:
        """The targets in the form that the loss expects."""
        return batch["y"]

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs in the form of the metrics and the served model: probabilities or values."""
        return outputs

    def metric_target(self, y: Tensor) -> Tensor:
        """Targets in the form that torchmetrics expects."""
        return y

    def average_views(self, views: Sequence[Tensor]) -> Tensor:
        """Outputs whose scores are the mean of the scores of several outputs."""
        return torch.stack(list(views)).mean(0)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss as logged in ``val/loss`` and ``test/loss``: without penalties."""
        return self.loss(outputs, self.loss_target({"y": y}))

    def classes_without_samples(self, y: Tensor) -> list[str]:
        """The names of classes or labels without samples in an evaluated split."""
        return []

    def output_name(self, i: int) -> str:
        """The name of class or target `i` in a metric's name."""
        return str(i)

    # --- predictions -------------------------------------------------------------------------------------------
    def forward(self, x: Tensor) -> Tensor:
        """Raw samples [B, *input_shape] -> outputs [B, num_outputs]."""
        return self.model(self.preprocess(x))

    @property
    def data_rank(self) -> int:
        """Which share of the samples this process has: its rank, unless ranks hold parts of one model."""
        return int((self.trainer.distributed_sampler_kwargs or {}).get("rank", 0)) if has_trainer(self) else 0

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._buffer_predictions(self._val_parts()[dataloader_idx], batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._buffer_predictions("test", batch)
        if self.tta is not None:
            batch = as_dict(batch)
            self.generator.manual_seed(derive_seed(self.seed, batch_idx, self.data_rank))
            outputs = self.average_views([self.forward(view) for view in self.tta(batch, self.generator)])
            self.prediction_buffers["tta/test"].add(outputs, batch["y"], batch.get("index"), self.data_rank)

    def _val_parts(self) -> tuple[str, ...]:
        """The splits of the validation loaders: ``val``, and ``test`` if the datamodule has it monitored."""
        parts: Callable[[], tuple[str, ...]] | None = getattr(self.trainer.datamodule, "val_parts", None)  # type: ignore[attr-defined]
        return parts() if parts else ("val",)

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        batch = as_dict(batch)
        self.prediction_buffers[stage].add(self.forward(batch["x"]), batch["y"], batch.get("index"), self.data_rank)

    # --- metrics -----------------------------------------------------------------------------------------------
    def on_validation_epoch_end(self) -> None:
        for i, part in enumerate(self._val_parts()):
            self._evaluate(part, "val", self.global_step, {} if i else {"epoch": self.current_epoch})

    def on_test_epoch_end(self) -> None:
        # MLflow's latest value of a metric is that of its highest step: it must be this one, not a monitored one
        watched = getattr(self.trainer.datamodule, "watch_test", False)  # type: ignore[attr-defined]
        step = max(self.tested_step, self.global_step) if watched else self.tested_step
        self.test_buffer = self._evaluate("test", "test", step)
        if self.tta is not None:
            self._evaluate("tta/test", "test", step)

    def _evaluate(
        self, part: str, stage: str, step: int, extra_metrics: Mapping[str, float] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute and log the loss and the metrics of `stage` over a whole split; return scores, targets, outputs, index.

        Each sample counts once, whatever the number of processes.
        """
        gather = self.all_gather if self.trainer.world_size > 1 else None
        outputs, y, index = self.prediction_buffers[part].collect(gather)
        if stage not in self._metrics:
            self._metrics[stage] = self.build_metrics(stage).to(outputs.device)
        scores = self.scores(outputs)
        metrics = self._metrics[stage]
        metrics.update(scores, self.metric_target(y))
        values = {"loss": self.evaluation_loss(outputs, y), **metrics.compute()}
        metrics.reset()
        if not self.trainer.sanity_checking:
            named = {f"{part}/{key}": value.float() for key, value in self._flatten(values).items()}
            self._log_metrics(named, step, extra_metrics)
            self._warn_of_undefined(part, named, outputs, y)
        return scores, y, outputs, index

    def _log_metrics(self, values: dict[str, Tensor], step: int, extra: Mapping[str, float] | None = None) -> None:
        """Pass `values` to callbacks and logger, and `extra` to the logger only.

        A metric that is NaN because it is not defined on the samples reaches the callbacks but is not logged.
        """
        if self.trainer.state.fn == "fit":
            set_metrics(self.trainer, values)
        else:
            self.log_dict(values, logger=False)
        for logger in self.loggers:
            defined = {name: value for name, value in values.items() if name.endswith("/loss") or not value.isnan()}
            logger.log_metrics({**defined, **(extra or {})}, step)  # type: ignore[dict-item]

    def _warn_of_undefined(self, part: str, values: Mapping[str, Tensor], outputs: Tensor, y: Tensor) -> None:
        """Warn once per split of classes without samples and of metrics that are not defined on its targets."""
        if part in self._warned:
            return
        self._warned.add(part)
        if missing := self.classes_without_samples(y):
            shown = ", ".join(missing[:20]) + " …" * (len(missing) > 20)
            classes, them = ("class", "it") if len(missing) == 1 else (f"these {len(missing)} classes:", "them")
            self._warn(f"{part}: no sample has {classes} {shown}; averages over classes leave {them} out")
        undefined = [
            name for name, value in values.items() if value.isnan() and "/" not in name.removeprefix(f"{part}/")
        ]
        if undefined and outputs.isfinite().all():
            samples = "1 sample" if len(y) == 1 else f"these {len(y)} samples"
            self._warn("\n".join(f"{name} is not defined on {samples} and is not logged" for name in undefined))

    def _warn(self, text: str) -> None:
        """Warn once for all ranks, on the terminal and in the log of the run."""
        if self.trainer.is_global_zero:
            warn(text)

    # --- names of metrics --------------------------------------------------------------------------------------
    def metric_names(self) -> set[str]:
        """All names that can be monitored; known before training."""
        names = {"val/loss"}
        self.build_metrics("test")  # checks their names, too
        for key, metric in self.build_metrics("val").items():
            several = getattr(metric, "average", "macro") in ("none", None)  # one value per class or label
            size = getattr(metric, "num_classes", None) or getattr(metric, "num_labels", None) or 0
            names.update(self._expand_names(f"val/{key}", several, int(size)))
        return names

    def _flatten(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread a metric of several values (per class, per target) over ``<name>/<class>``."""
        flat: dict[str, Tensor] = {}
        for key, value in values.items():
            names = self._expand_names(key, value.ndim == 1, len(value) if value.ndim else 0)
            flat |= dict(zip(names, value.reshape(-1), strict=True))
        return flat

    def _expand_names(self, key: str, several: bool, size: int) -> Sequence[str]:
        suffixes = metric_suffixes([self.output_name(i) for i in range(size)])
        return [f"{key}/{suffix}" for suffix in suffixes] if several else [key]
