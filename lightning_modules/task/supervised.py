"""The supervised LightningModule: one definition of the loss, two ways around the batches that give equal weights.

The ordinary way is Lightning's automatic optimisation. The quick way takes ``steps_per_call`` mini-batches in one
``training_step`` with manual optimisation, which removes Lightning's cost per step; `run.py` chooses it where
nothing else (DDP, mixed precision, accumulation, clipping, callbacks on steps) needs the ordinary one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_modules.compat.lightning import has_trainer, set_metrics
from lightning_modules.config.errors import warn
from lightning_modules.config.signals import raise_if_received
from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.optimizer.lr_schedules import replan_on_resume
from lightning_modules.optimizer.param_groups import parameter_groups
from lightning_modules.task.fast_loop import Batch, find_schedule, take_steps
from lightning_modules.task.manifold_mixup import manifold_mixup
from lightning_modules.task.metrics import metric_suffixes
from lightning_modules.task.nan_guard import NanGuard
from lightning_modules.task.prediction_buffer import PredictionBuffer
from lightning_modules.task.profiling import ThroughputTimer
from lightning_modules.task.rng import derive_seed, seed_epoch

_MAX_BUFFERED_BATCHES = 64  # batches of outputs that wait until they are summed up


class Supervised(pl.LightningModule):
    """Maps raw samples to predictions and learns from targets.

    Args:
        model: floats [B, *input_shape] -> [B, num_outputs].
        loss: (predictions, targets) -> scalar; the mean over samples.
        preprocess: raw x -> floats; part of the module, so that a checkpoint serves raw samples.
        augmentation: (batch, generator) -> batch, in training only, on the batch's device.
        tta: (batch, generator) -> views of its raw samples, whose outputs are averaged in the test as ``tta/test/…``.
        optimizer: partial of a ``torch.optim.Optimizer``; takes parameter groups.
        scheduler: partial that takes (optimizer, total_steps, steps_per_epoch) and returns Lightning's scheduler dict.
        l1, l2: weights of sum |w| and 0.5 sum w^2 over trainable weights (not biases and norms), added to the training loss.
        seed: augmentation and dropout in epoch e depend on (seed, e) alone, so a resumed run draws the same numbers.
        batch_size: samples in one optimizer step of one process; the quick way splits its chunks by it.
        steps_per_call: mini-batches in one ``training_step``; 1 is the ordinary way.
        log_every_n_steps: optimizer steps between two points of ``train/loss``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        preprocess: nn.Module | None = None,
        augmentation: nn.Module | None = None,
        tta: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        decay_norms_and_biases: bool = True,
        l1: float = 0.0,
        l2: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
        steps_per_call: int = 1,
        log_every_n_steps: int = 50,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss: Any = loss
        self.preprocess = preprocess or nn.Identity()
        self.augmentation = augmentation
        self.tta = tta
        self._optimizer, self._scheduler = optimizer, scheduler
        self.decay_norms_and_biases = decay_norms_and_biases
        self.l1, self.l2 = l1, l2
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_call, self.log_every_n_steps = steps_per_call, log_every_n_steps
        self.automatic_optimization = steps_per_call == 1
        self.generator = torch.Generator()
        self.throughput = ThroughputTimer()
        self.nan_guard = NanGuard(window=log_every_n_steps)
        self.train_outputs: list[tuple[Tensor, Tensor]] = []
        self.prediction_buffers = {part: PredictionBuffer() for part in ("val", "test", "tta/test")}
        self.test_buffer: tuple[Tensor, Tensor] | None = None
        self.extra_losses: list[
            Callable[[Tensor, Tensor, Batch], Tensor]
        ] = []  # each makes of (loss, outputs, batch) a loss
        self._metrics: dict[str, MetricCollection] = {}
        self._warned: set[str] = set()  # parts
        self._penalised: list[nn.Parameter] = []
        self._train_metric_sums: list[Tensor] = []
        self._last_step = -1
        self._planned: int | None = None  # optimizer steps of the fit, for the schedule
        self._planned_in_checkpoint: int | None = None  # as the checkpoint has it that the fit is resumed from
        self._resumed = False
        self.tested_step = 0  # the step of the weights that are tested
        self.task_spec: dict[str, Any] = {}  # plain config of model, task, preprocessing: `serve.py` rebuilds from it

    # --- what a kind of task defines -------------------------------------------------------------------------
    def build_metrics(self, stage: str) -> MetricCollection:
        """The torchmetrics of ``val`` or ``test``, computed once an epoch on all buffered predictions."""
        raise TypeError(f"{type(self).__name__} defines no metrics")

    def loss_target(self, batch: Batch) -> Tensor:
        """The targets in the form the loss wants."""
        return batch["y"]

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs in the form the metrics and the served model give: probabilities or values."""
        return outputs

    def metric_target(self, y: Tensor) -> Tensor:
        """Targets in the form torchmetrics takes."""
        return y

    def average_views(self, views: Sequence[Tensor]) -> Tensor:
        """Outputs whose scores are the mean of the scores of several outputs."""
        return torch.stack(list(views)).mean(0)

    train_metric_names: tuple[str, ...] = ()  # of what `train_sums` gives

    def train_metric_sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Sums over samples, one for each of `train_names`, whose mean over the epoch is logged as ``train/<name>``."""
        return outputs.new_zeros(0)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss as ``val/loss`` and ``test/loss`` give it: without penalties."""
        return self.loss(outputs, self.loss_target({"y": y}))

    def classes_without_samples(self, y: Tensor) -> list[str]:
        """The names of classes or labels that no sample of an evaluated part has."""
        return []

    def output_name(self, i: int) -> str:
        """The name of class or target `i` in a metric's name."""
        return str(i)

    # --- the loss --------------------------------------------------------------------------------------------
    def forward(self, x: Tensor) -> Tensor:
        """Raw samples [B, *input_shape] -> outputs [B, num_outputs]."""
        return self.model(self.preprocess(x))

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        """Loss with penalties of one mini-batch, augmented with the numbers that belong to `step`."""
        if self.augmentation is not None:
            self.generator.manual_seed(derive_seed(self.seed, step, self.data_rank))
            batch = self.augmentation(batch, self.generator)
        with manifold_mixup(self.model, batch):
            outputs, loss = self.outputs_and_loss(batch)
        if self.l1 or self.l2:
            loss = loss + self._penalty()
        for term in self.extra_losses:
            loss = term(loss, outputs, batch)
        if self.train_metric_names:
            self.train_outputs.append((outputs.detach(), batch["y"]))
        return loss

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs [B, num_outputs] and their loss; a strategy that cuts batches puts its own way in the place of this."""
        outputs = self.forward(batch["x"])
        return outputs, self.loss(outputs, self.loss_target(batch))

    def _penalty(self) -> Tensor:
        self._penalised = self._penalised or [
            p for group in parameter_groups(self.model, 1.0, False) if group["weight_decay"] for p in group["params"]
        ]
        absolute = torch.stack([p.abs().sum() for p in self._penalised]).sum() if self.l1 else 0.0
        squared = torch.stack([p.square().sum() for p in self._penalised]).sum() if self.l2 else 0.0
        return torch.as_tensor(self.l1 * absolute + 0.5 * self.l2 * squared)

    # --- training --------------------------------------------------------------------------------------------
    @property
    def data_rank(self) -> int:
        """Which of the shares of the samples this process has: its rank, but where ranks hold parts of one model."""
        return int((self.trainer.distributed_sampler_kwargs or {}).get("rank", 0)) if has_trainer(self) else 0

    def on_train_epoch_start(self) -> None:
        seed_epoch(self.seed, self.current_epoch, self.data_rank, self.device)
        self.train_outputs, self._train_metric_sums = [], []
        self.throughput.start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.throughput.add(len(batch["index"]))
        if self.steps_per_call > 1:
            take_steps(self, batch)
            self._reduce_train_outputs()
            return None
        step = self.global_step
        loss = self.training_loss(batch, self.trainer.fit_loop.epoch_loop.total_batch_idx)
        self.log_step(step, loss, batch["index"], self.trainer.optimizers[0].param_groups[0]["lr"])
        if len(self.train_outputs) >= _MAX_BUFFERED_BATCHES:
            self._reduce_train_outputs()
        weight = self._accumulation_weight(batch_idx, len(batch["index"]))
        return loss if weight == 1 else loss * weight

    def _accumulation_weight(self, batch_idx: int, size: int) -> float:
        """The factor of a mini-batch's loss by which all samples of an accumulated step count the same.

        Lightning divides each loss by ``accumulate_grad_batches``, which is wrong in an epoch's last step where that has
        fewer batches or a smaller one.
        """
        batches, order = self.trainer.accumulate_grad_batches, self._train_order()
        if batches == 1 or order is None:
            return 1.0
        first = batch_idx - batch_idx % batches
        return batches * size / order.samples_in(first, min(first + batches, int(self.trainer.num_training_batches)))

    def _train_order(self) -> BatchSampler | None:
        """The sampler of the training batches, where they come from one of ours."""
        order = getattr(self.trainer.train_dataloader, "sampler", None)
        return order if isinstance(order, BatchSampler) else None

    def on_train_start(self) -> None:
        self._report_schedule_change()
        order = self._train_order()
        if order is not None and order.num_dropped:
            self._warn(
                f"train: {order.num_dropped} of {len(order.indices)} samples are left out of each epoch: they would be a "
                "last batch of one sample, which batch norm cannot be trained on"
            )

    def _warn(self, text: str) -> None:
        """Print a warning once for all ranks, and keep it in the log of the run."""
        if self.trainer.is_global_zero:
            warn(text)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if 0 <= self.trainer.max_steps <= self.global_step:
            self.trainer.should_stop = True  # Lightning then validates the last weights, within an epoch too

    def log_step(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None:
        """Watch the loss of `step`, and log it where it is due."""
        raise_if_received()  # the quick way takes many steps in one call
        loss = loss.detach()
        self.nan_guard.record(step, loss, index, lr)
        if step % self.log_every_n_steps == 0 and step != self._last_step and self.logger is not None:
            self.logger.log_metrics({"train/loss": loss}, step)  # type: ignore[dict-item]
        self._last_step = step  # several micro-batches make one step where gradients are accumulated

    def _reduce_train_outputs(self) -> None:
        """Reduce the kept outputs to sums, so that memory stays small and no step pays for a metric."""
        if self.train_outputs:
            outputs, y = (torch.cat(part) for part in zip(*self.train_outputs, strict=True))
            count = torch.full((1,), float(len(y)), device=outputs.device)
            self._train_metric_sums.append(torch.cat([self.train_metric_sums(outputs, y), count]))
            self.train_outputs = []

    def on_validation_start(self) -> None:
        self._log_throughput()

    def _log_throughput(self) -> None:
        """Of one process; strategies of several measure it themselves (`strategy/traffic.py`)."""
        pace = self.throughput.read()
        if pace is not None and self.logger is not None and not hasattr(self.trainer.strategy, "bytes_counter"):
            self.logger.log_metrics({"throughput/samples_per_s": pace}, self.global_step)

    def on_train_epoch_end(self) -> None:
        self._log_throughput()
        if not self.automatic_optimization and (schedule := find_schedule(self.trainer, "epoch")) is not None:
            schedule.step()
        self.nan_guard.check()
        self._reduce_train_outputs()
        if self._train_metric_sums:
            total = torch.stack(self._train_metric_sums).sum(0)
            total = self.trainer.strategy.reduce(total, reduce_op="sum").cpu()
            means = {f"train/{name}": total[i] / total[-1] for i, name in enumerate(self.train_metric_names)}
            self._log_metrics(means, self.global_step)

    # --- evaluation ------------------------------------------------------------------------------------------
    def _val_parts(self) -> tuple[str, ...]:
        """What the loaders of a validation hold: ``val``, and ``test`` where the data let it be watched."""
        parts: Callable[[], tuple[str, ...]] | None = getattr(self.trainer.datamodule, "val_parts", None)  # type: ignore[attr-defined]
        return parts() if parts else ("val",)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._buffer_predictions(self._val_parts()[dataloader_idx], batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._buffer_predictions("test", batch)
        if self.tta is not None:
            self.generator.manual_seed(derive_seed(self.seed, batch_idx, self.data_rank))
            outputs = self.average_views([self.forward(view) for view in self.tta(batch, self.generator)])
            self.prediction_buffers["tta/test"].add(outputs, batch["y"], batch["index"])

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        self.prediction_buffers[stage].add(self.forward(batch["x"]), batch["y"], batch["index"])

    def on_validation_epoch_start(self) -> None:
        self.nan_guard.check()  # weights that are not finite are not worth a measurement

    def on_validation_epoch_end(self) -> None:
        for i, part in enumerate(self._val_parts()):
            self._evaluate(part, "val", self.global_step, {} if i else {"epoch": self.current_epoch})

    def on_test_epoch_end(self) -> None:
        # MLflow's latest value of a metric is that of its highest step: no watched one shall pass for this one
        watched = getattr(self.trainer.datamodule, "watch_test", False)  # type: ignore[attr-defined]
        step = max(self.tested_step, self.global_step) if watched else self.tested_step
        self.test_buffer = self._evaluate("test", "test", step)
        if self.tta is not None:
            self._evaluate("tta/test", "test", step)

    def _evaluate(
        self, part: str, stage: str, step: int, extra_metrics: Mapping[str, float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss and the metrics of `stage` over a whole part, and log them with the values `beside` them.

        Each sample counts once, whatever the number of processes.
        """
        outputs, y = self.prediction_buffers[part].collect(self.all_gather if self.trainer.world_size > 1 else None)
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
        return scores, y

    def _warn_of_undefined(self, part: str, values: Mapping[str, Tensor], outputs: Tensor, y: Tensor) -> None:
        """Warn once for each part of classes without samples and of metrics that are not defined on its targets."""
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

    def _log_metrics(
        self, values: dict[str, Tensor], step: int, extra_metrics: Mapping[str, float] | None = None
    ) -> None:
        """Give the values to the callbacks and to the logger; what stands `beside` them to the logger alone.

        A metric that is NaN, as it is not defined on the samples, reaches the callbacks but is not logged.
        """
        if self.trainer.state.fn == "fit":
            set_metrics(self.trainer, values)
        else:
            self.log_dict(values, logger=False)
        if self.logger is not None:
            defined = {name: value for name, value in values.items() if name.endswith("/loss") or not value.isnan()}
            self.logger.log_metrics({**defined, **(extra_metrics or {})}, step)  # type: ignore[dict-item]

    def _flatten(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread a metric of several values (per class, per target) over ``<name>/<member>``."""
        flat: dict[str, Tensor] = {}
        for key, value in values.items():
            names = self._expand_names(key, value.ndim == 1, len(value) if value.ndim else 0)
            flat |= dict(zip(names, value.reshape(-1), strict=True))
        return flat

    def _expand_names(self, key: str, several: bool, size: int) -> Sequence[str]:
        members = metric_suffixes([self.output_name(i) for i in range(size)])
        return [f"{key}/{member}" for member in members] if several else [key]

    def metric_names(self) -> set[str]:
        """All names that can be monitored; known before anything is trained."""
        names = {f"train/{name}" for name in self.train_metric_names} | {"val/loss"}
        for key, metric in self.build_metrics("val").items():
            names.update(self._expand_names(f"val/{key}", *_metric_shape(metric)))
        return names

    # --- optimisation and checkpoint -------------------------------------------------------------------------
    def configure_optimizers(self) -> Any:
        assert self._optimizer is not None
        keywords = getattr(self._optimizer, "keywords", {})
        groups = parameter_groups(self.model, keywords.get("weight_decay", 0.0), self.decay_norms_and_biases)
        optimizer = self._optimizer(groups)
        if self._scheduler is None:
            return optimizer
        total, per_epoch = self.planned_steps()
        self._planned = total
        return {
            "optimizer": optimizer,
            "lr_scheduler": self._scheduler(optimizer, total_steps=total, steps_per_epoch=per_epoch),
        }

    def planned_steps(self) -> tuple[int, int]:
        """Optimizer steps of the whole fit and of one epoch, in either way around the batches."""
        total, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        if self.steps_per_call == 1:
            return total, max(1, total // max(1, epochs or 1))
        shares = (self.trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
        per_epoch = self.trainer.datamodule.steps_per_epoch(shares)  # type: ignore[attr-defined] # Lightning counts chunks
        total = self.trainer.max_steps if epochs == -1 else per_epoch * (epochs or 1)
        return (min(total, self.trainer.max_steps) if self.trainer.max_steps >= 0 else total), per_epoch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["passport"] = self.task_spec
        if self._planned is not None:
            checkpoint["planned_steps"] = self._planned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._planned_in_checkpoint = checkpoint.get("planned_steps")
        self._resumed = True

    def _report_schedule_change(self) -> None:
        """Print what becomes of the schedule where a run is resumed for another length."""
        if self._resumed and self.trainer.lr_scheduler_configs and self._planned is not None:
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            message = replan_on_resume(scheduler, self._planned, self._planned_in_checkpoint)
            if message and self.trainer.is_global_zero:
                print(f"{message} (step {self.global_step})", flush=True)

    def on_fit_end(self) -> None:
        self._resumed = False

    def on_fit_start(self) -> None:
        self.nan_guard.clear()
        self._last_step = -1
        self._penalised = []  # a stage of compression may have put another network in its place


def _metric_shape(metric: Metric) -> tuple[bool, int]:
    """Whether a metric gives one value per class or label, and how many."""
    size = getattr(metric, "num_classes", None) or getattr(metric, "num_labels", None) or 0
    return getattr(metric, "average", "macro") in ("none", None), int(size)
