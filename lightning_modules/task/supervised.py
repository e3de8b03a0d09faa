"""The supervised LightningModule: one definition of the loss, two ways around the batches that give equal weights.

The ordinary way is Lightning's automatic optimisation. The quick way takes ``steps_per_call`` mini-batches in one
``training_step`` with manual optimisation, which removes Lightning's cost per step; `run.py` chooses it where
nothing else (DDP, mixed precision, accumulation, clipping, callbacks on steps) needs the ordinary one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.optimizer.groups import parameter_groups
from lightning_modules.task.buffer import PredictionBuffer
from lightning_modules.task.watch import LossWatch

Batch = dict[str, Tensor]


class Supervised(pl.LightningModule):
    """Maps raw samples to predictions and learns from targets.

    Args:
        model: floats [B, *input_shape] -> [B, num_outputs].
        loss: (predictions, targets) -> scalar; the mean over samples.
        preprocess: raw x -> floats; part of the module, so that a checkpoint serves raw samples.
        augmentation: (batch, generator) -> batch, in training only, on the batch's device.
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
        self.loss = loss
        self.preprocess = preprocess or nn.Identity()
        self.augmentation = augmentation
        self._optimizer, self._scheduler = optimizer, scheduler
        self.decay_norms_and_biases = decay_norms_and_biases
        self.l1, self.l2 = l1, l2
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_call, self.log_every_n_steps = steps_per_call, log_every_n_steps
        self.automatic_optimization = steps_per_call == 1
        self.generator = torch.Generator()
        self.watch = LossWatch(window=log_every_n_steps)
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.buffers_of: dict[str, PredictionBuffer] = {"val": PredictionBuffer(), "test": PredictionBuffer()}
        self.test_buffer: tuple[Tensor, Tensor] | None = None
        self._metrics: dict[str, MetricCollection] = {}
        self._penalised: list[nn.Parameter] = []
        self._train_sums: list[dict[str, Tensor]] = []
        self._last_step = -1
        self.tested_step = 0  # the step of the weights that are tested
        self.passport: dict[
            str, Any
        ] = {}  # plain config of model, task and preprocessing: what `serve.py` rebuilds from

    # --- what a kind of task defines -------------------------------------------------------------------------
    def build_metrics(self, stage: str) -> MetricCollection:
        """The torchmetrics of ``val`` or ``test``, computed once an epoch on all buffered predictions."""
        raise TypeError(f"{type(self).__name__} defines no metrics")

    def target_of(self, batch: Batch) -> Tensor:
        """The targets in the form the loss wants."""
        return batch["y"]

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs in the form the metrics and the served model give: probabilities or values."""
        return outputs

    def metric_target(self, y: Tensor) -> Tensor:
        """Targets in the form torchmetrics takes."""
        return y

    def train_sums(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Sums over samples whose mean over the epoch is logged as ``train/<name>``."""
        return {}

    # --- the loss --------------------------------------------------------------------------------------------
    def forward(self, x: Tensor) -> Tensor:
        """Raw samples [B, *input_shape] -> outputs [B, num_outputs]."""
        return self.model(self.preprocess(x))

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        """Loss with penalties of one mini-batch, augmented with the numbers that belong to `step`."""
        if self.augmentation is not None:
            self.generator.manual_seed(_mix(self.seed, step, self.global_rank))
            batch = self.augmentation(batch, self.generator)
        outputs = self.forward(batch["x"])
        loss = self.loss(outputs, self.target_of(batch))
        if self.l1 or self.l2:
            loss = loss + self._penalty()
        self.seen.append((outputs.detach(), batch["y"]))
        return loss

    def _penalty(self) -> Tensor:
        self._penalised = self._penalised or [
            p
            for group in parameter_groups(self.model, 1.0, False)
            if group["weight_decay"]
            for p in group["params"]
        ]
        absolute = torch.stack([p.abs().sum() for p in self._penalised]).sum() if self.l1 else 0.0
        squared = torch.stack([p.square().sum() for p in self._penalised]).sum() if self.l2 else 0.0
        return torch.as_tensor(self.l1 * absolute + 0.5 * self.l2 * squared)

    # --- training --------------------------------------------------------------------------------------------
    def on_train_epoch_start(self) -> None:
        pl.seed_everything(_mix(self.seed, self.current_epoch, self.global_rank) % 2**32, verbose=False)
        self.seen, self._train_sums = [], []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.steps_per_call > 1:
            self._many_steps(batch)
            return None
        step = self.global_step
        loss = self.training_loss(batch, self.trainer.fit_loop.epoch_loop.total_batch_idx)
        self.watch.see(step, loss, batch["index"], self._lr)
        if step != self._last_step:  # several micro-batches make one step where gradients are accumulated
            self._log_loss(step, loss)
            self._last_step = step
        if len(self.seen) >= 64:
            self._fold()
        return loss

    def _many_steps(self, chunk: Batch) -> None:
        """Take one optimizer step per mini-batch of `chunk`, as the ordinary loop would, and advance its counters."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        schedule = self._schedule_of("step")
        first = step = self.global_step
        for batch in self._mini_batches(chunk, first):
            loss = self.training_loss(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._log_loss(step, loss)
            self.watch.see(step, loss, batch["index"], self._lr)
            if schedule is not None:
                schedule.step()
            step += 1
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped += step - first - 1  # Lightning adds the one
        progress = loop.manual_optimization.optim_step_progress
        for counter in (progress.total, progress.current):
            counter.ready += step - first
            counter.completed += step - first
        self._fold()

    def _log_loss(self, step: int, loss: Tensor) -> None:
        if step % self.log_every_n_steps == 0 and self.logger is not None:
            self.logger.log_metrics({"train/loss": loss.detach()}, step)  # type: ignore[dict-item]

    def _mini_batches(self, chunk: Batch, first: int) -> Iterator[Batch]:
        parts = {key: value.split(self.batch_size) for key, value in chunk.items()}
        count = len(parts["x"])
        if self.trainer.max_steps >= 0:
            count = min(count, self.trainer.max_steps - first)
        for i in range(count):
            yield {key: value[i] for key, value in parts.items()}

    def _schedule_of(self, interval: str) -> Any:
        configs = self.trainer.lr_scheduler_configs
        return next((config.scheduler for config in configs if config.interval == interval), None)

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def _fold(self) -> None:
        """Reduce the kept outputs to sums, so that memory stays small and no step pays for a metric."""
        if self.seen:
            outputs, y = (torch.cat(part) for part in zip(*self.seen, strict=True))
            self._train_sums.append({"n": torch.tensor(float(len(y))), **self.train_sums(outputs, y)})
            self.seen = []

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization and (schedule := self._schedule_of("epoch")) is not None:
            schedule.step()
        self._fold()
        self.watch.check()
        names = self._train_sums[0].keys() - {"n"} if self._train_sums else ()
        seen = sum(sums["n"] for sums in self._train_sums)
        means = {f"train/{name}": sum(sums[name].cpu() for sums in self._train_sums) / seen for name in names}
        if means:
            self.log_dict(means, sync_dist=self.trainer.world_size > 1, logger=False)
            if self.logger is not None:
                self.logger.log_metrics(
                    {key: self.trainer.callback_metrics[key] for key in means}, self.global_step
                )

    # --- evaluation ------------------------------------------------------------------------------------------
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._keep("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._keep("test", batch)

    def _keep(self, stage: str, batch: Batch) -> None:
        self.buffers_of[stage].add(self.forward(batch["x"]), batch["y"], batch["index"])

    def on_validation_epoch_end(self) -> None:
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        self.test_buffer = self._measure("test")

    def _measure(self, stage: str) -> tuple[Tensor, Tensor]:
        """Compute loss and metrics over the whole set: each sample counted once, whatever the number of processes."""
        outputs, y = self.buffers_of[stage].collect(self.all_gather if self.trainer.world_size > 1 else None)
        values: dict[str, Any] = {"loss": self.loss(outputs, self.target_of({"y": y}))}
        if stage not in self._metrics:
            self._metrics[stage] = self.build_metrics(stage).to(outputs.device)
        metrics = self._metrics[stage]
        scores = self.scores(outputs)
        values |= metrics(scores, self.metric_target(y))
        metrics.reset()
        named = {f"{stage}/{key}": value.float() for key, value in self._flatten(values).items()}
        if not self.trainer.sanity_checking:
            self.log_dict(named, logger=False, prog_bar=False)
            if self.logger is not None and stage == "val":
                self.logger.log_metrics({**named, "epoch": self.current_epoch}, self.global_step)
            elif self.logger is not None:
                self.logger.log_metrics(named, self.tested_step)
        return scores, y

    def _flatten(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread a metric of several values (per class, per target) over ``<name>/<member>``."""
        flat: dict[str, Tensor] = {}
        for key, value in values.items():
            if value.ndim == 0:
                flat[key] = value
            elif value.ndim == 1:
                names = (re.sub(r"[^\w. -]", "_", self.member_name(i)) for i in range(len(value)))
                flat |= {f"{key}/{name}": v for name, v in zip(names, value, strict=True)}
        return flat

    def member_name(self, i: int) -> str:
        """The name of class or target `i` in a metric's name."""
        return str(i)

    def metric_names(self) -> set[str]:
        """All names that can be monitored; known before anything is trained."""
        metrics = {
            f"val/{key}" for key, metric in self.build_metrics("val").items() if not _is_vector(metric)
        }
        return (
            metrics
            | {"val/loss"}
            | {f"train/{key}" for key in self.train_sums(torch.zeros(1, 2), torch.zeros(1))}
        )

    # --- optimisation and checkpoint -------------------------------------------------------------------------
    def configure_optimizers(self) -> Any:
        assert self._optimizer is not None
        keywords = getattr(self._optimizer, "keywords", {})
        groups = parameter_groups(self.model, keywords.get("weight_decay", 0.0), self.decay_norms_and_biases)
        optimizer = self._optimizer(groups)
        if self._scheduler is None:
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        if self.steps_per_call > 1:  # Lightning counts chunks; the schedule counts optimizer steps
            per_epoch = self.trainer.datamodule.steps_per_epoch()  # type: ignore[attr-defined]
            total = per_epoch * (self.trainer.max_epochs or 1)
            total = min(total, self.trainer.max_steps) if self.trainer.max_steps >= 0 else total
        else:
            per_epoch = max(1, total // max(1, self.trainer.max_epochs or 1))
        return {
            "optimizer": optimizer,
            "lr_scheduler": self._scheduler(optimizer, total_steps=total, steps_per_epoch=per_epoch),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["passport"] = self.passport

    def on_fit_start(self) -> None:
        self.watch.clear()
        self._last_step = -1


def _mix(seed: int, step: int, rank: int) -> int:
    """A 63-bit number of three: neighbours in any of them give unrelated streams (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**63 - 1)


def _is_vector(metric: Any) -> bool:
    return getattr(metric, "average", "macro") in ("none", None) or "ConfusionMatrix" in type(metric).__name__
