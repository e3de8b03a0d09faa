"""The supervised LightningModule: loss, optimizer, schedule, steps and epochs. Longer than 200 lines: it is one class."""

import math
from collections.abc import Callable
from functools import partial

import torch
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.signals import raise_if_received
from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.data.in_memory import Batch
from lightning_modules.optimizer.lr_schedules import replan_on_resume
from lightning_modules.optimizer.param_groups import parameter_groups
from lightning_modules.task.batches import as_dict
from lightning_modules.task.evaluation import EvaluatedModule
from lightning_modules.task.fast_loop import FastLoop
from lightning_modules.task.manifold_mixup import manifold_mixup
from lightning_modules.task.nan_guard import NanGuard
from lightning_modules.task.profiling import ThroughputTimer
from lightning_modules.task.rng import derive_seed, seed_epoch

_MAX_BUFFERED_BATCHES = 64  # batches of outputs that are kept before they are reduced to sums


class Supervised(EvaluatedModule):
    """Maps raw samples to predictions and learns from targets.

    Args:
        model, loss, preprocess, seed: see `EvaluatedModule`.
        augmentation: (batch, generator) -> batch, in training only, on the batch's device.
        tta: (batch, generator) -> views of its raw samples, whose outputs are averaged in the test as ``tta/test/…``.
        optimizer: partial of a ``torch.optim.Optimizer``; takes parameter groups.
        scheduler: partial that takes (optimizer, total_steps, steps_per_epoch) and returns Lightning's scheduler dict.
        l1, l2: weights of sum |w| and 0.5 sum w^2 over trainable weights (not biases and norms), added to the training loss.
        batch_size: samples in one optimizer step of one process.
        steps_per_call: mini-batches in one ``training_step``; more than 1 is the fast loop.
        log_every_n_steps: optimizer steps between two points of ``train/loss``.
    """

    required_groups: tuple[str, ...] = ("model", "task.loss", "optimizer")  # config groups with a `_target_`

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        preprocess: nn.Module | None = None,
        augmentation: nn.Module | None = None,
        tta: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., LRSchedulerConfigType] | None = None,
        decay_norms_and_biases: bool = True,
        l1: NonNegative = 0.0,
        l2: NonNegative = 0.0,
        seed: int = 0,
        batch_size: Count = 64,
        steps_per_call: Count = 1,
        log_every_n_steps: Count = 50,
    ) -> None:
        super().__init__(model, loss, preprocess, seed)
        self.augmentation = augmentation
        self.tta = tta
        self._optimizer, self._scheduler = optimizer, scheduler
        self.decay_norms_and_biases = decay_norms_and_biases
        self.l1, self.l2 = l1, l2
        self.batch_size = batch_size
        self.steps_per_call, self.log_every_n_steps = steps_per_call, log_every_n_steps
        self.fast_loop = FastLoop() if steps_per_call > 1 else None
        self.automatic_optimization = self.fast_loop is None
        self.throughput = ThroughputTimer()
        self.nan_guard = NanGuard(window=log_every_n_steps)
        self.train_outputs: list[tuple[Tensor, Tensor]] = []
        self.extra_losses: list[Callable[[Tensor, Tensor, Batch], Tensor]] = []  # (loss, outputs, batch) -> loss
        self.seeds_epochs = True  # False: a callback seeds the global generators, also for the order of the data
        self._penalised: list[nn.Parameter] = []
        self._train_metric_sums: list[Tensor] = []
        self._last_step = -1
        self._reached_max_steps = False
        self._planned: int | None = None  # optimizer steps of the fit, for the schedule
        self._planned_in_checkpoint: int | None = None
        self._resumed = False
        self.task_spec: PlainDict = {}  # plain config of model, task and preprocessing, to rebuild the task from

    # --- what a task defines -----------------------------------------------------------------------------------
    train_metric_names: tuple[str, ...] = ()

    def train_metric_sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Sums over samples, one for each of `train_metric_names`; the epoch's mean is logged as ``train/<name>``."""
        return outputs.new_zeros(0)

    # --- the loss ----------------------------------------------------------------------------------------------
    def training_loss(self, batch: Batch, step: int) -> Tensor:
        """Loss with penalties of one mini-batch, augmented with the random numbers of `step`."""
        if self.augmentation is not None:
            self.generator.manual_seed(derive_seed(self.seed, step, self.data_rank))
            batch = self.augmentation(batch, self.generator)
        with manifold_mixup(self.model, batch):
            outputs, loss = self.outputs_and_loss(batch)
        if self.l1 or self.l2:
            loss = loss + self._penalty()
        for extra_loss in self.extra_losses:
            loss = extra_loss(loss, outputs, batch)
        if self.train_metric_names:
            self.train_outputs.append((outputs.detach(), batch["y"]))
        return loss

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs [B, num_outputs] and their loss; pipeline parallelism replaces this method."""
        outputs = self.forward(batch["x"])
        return outputs, self.loss(outputs, self.loss_target(batch))

    def _penalty(self) -> Tensor:
        self._penalised = self._penalised or [
            p for group in parameter_groups(self.model, 1.0, False) if group["weight_decay"] for p in group["params"]
        ]
        absolute = torch.stack([p.abs().sum() for p in self._penalised]).sum() if self.l1 else 0.0
        squared = torch.stack([p.square().sum() for p in self._penalised]).sum() if self.l2 else 0.0
        return torch.as_tensor(self.l1 * absolute + 0.5 * self.l2 * squared)

    # --- steps -------------------------------------------------------------------------------------------------
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        batch = as_dict(batch)
        self.throughput.add(len(batch["y"]))
        if self.fast_loop is not None:
            self.fast_loop.take_steps(self, batch)
            self._reduce_train_outputs()
            return None
        step = self.global_step
        loss = self.training_loss(batch, self.trainer.fit_loop.epoch_loop.total_batch_idx)
        self.log_step(step, loss, batch.get("index", batch["y"][:0]), self.trainer.optimizers[0].param_groups[0]["lr"])
        if len(self.train_outputs) >= _MAX_BUFFERED_BATCHES:
            self._reduce_train_outputs()
        weight = self._accumulation_weight(batch_idx, len(batch["y"]))
        return loss if weight == 1 else loss * weight

    def _accumulation_weight(self, batch_idx: int, size: int) -> float:
        """The factor of a mini-batch's loss that gives all samples of an accumulated step equal weight.

        Lightning divides each loss by ``accumulate_grad_batches``, which is wrong in an epoch's last step if that has
        fewer batches or a smaller one.
        """
        batches, sampler = self.trainer.accumulate_grad_batches, self._train_sampler()
        if batches == 1 or sampler is None:
            return 1.0
        first = batch_idx - batch_idx % batches
        return batches * size / sampler.samples_in(first, min(first + batches, int(self.trainer.num_training_batches)))

    def _train_sampler(self) -> BatchSampler | None:
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        return sampler if isinstance(sampler, BatchSampler) else None

    def log_step(self, step: int, loss: Tensor, index: Tensor, lr: float | Tensor) -> None:
        """Check the loss of `step`, and log it every `log_every_n_steps` steps."""
        raise_if_received()  # the fast loop takes many steps per call
        loss = loss.detach()
        self.nan_guard.record(step, loss, index, lr)
        for logger in self.loggers if step % self.log_every_n_steps == 0 and step != self._last_step else ():
            logger.log_metrics({"train/loss": loss}, step)  # type: ignore[dict-item]
        self._last_step = step  # accumulated gradients: several micro-batches have the same step

    def _reduce_train_outputs(self) -> None:
        """Reduce the buffered outputs to sums, so that memory stays small and no step computes a metric."""
        if self.train_outputs:
            outputs, y = (torch.cat(part) for part in zip(*self.train_outputs, strict=True))
            count = torch.full((1,), float(len(y)), device=outputs.device)
            self._train_metric_sums.append(torch.cat([self.train_metric_sums(outputs, y), count]))
            self.train_outputs = []

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        if 0 <= self.trainer.max_steps <= self.global_step:
            self._reached_max_steps = True
            self.trainer.should_stop = True  # Lightning then validates the last weights, within an epoch too

    # --- epochs ------------------------------------------------------------------------------------------------
    def on_fit_start(self) -> None:
        self.nan_guard.clear()
        self._last_step = -1
        self._penalised = []  # a compression stage may have replaced the model
        if self._reached_max_steps:  # in a trial of Lightning's BatchSizeFinder, which leaves it set
            self._reached_max_steps = self.trainer.should_stop = False
            if self._planned is not None and self._planned != (total := self.planned_steps()[0]):
                self._warn(
                    f"scheduler: planned for {self._planned} steps, but data.batch_size={self.batch_size}, which "
                    f"BatchSizeFinder found, gives {total}; set it and remove BatchSizeFinder"
                )

    def on_train_start(self) -> None:
        if self._resumed and self.trainer.lr_scheduler_configs and self._planned is not None:
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            message = replan_on_resume(scheduler, self._planned, self._planned_in_checkpoint)
            if message and self.trainer.is_global_zero:
                print(f"{message} (step {self.global_step})", flush=True)
        sampler = self._train_sampler()
        if sampler is not None and sampler.num_dropped:
            self._warn(
                f"train: {sampler.num_dropped} of {len(sampler.indices)} samples are left out of each epoch: they would be a "
                "last batch of one sample, which batch norm cannot be trained on"
            )

    def on_train_epoch_start(self) -> None:
        if self.seeds_epochs:
            seed_epoch(self.seed, self.current_epoch, self.data_rank, self.device)
        self.train_outputs, self._train_metric_sums = [], []
        self.throughput.start()

    def on_validation_start(self) -> None:
        self._log_throughput()

    def on_validation_epoch_start(self) -> None:
        self.nan_guard.check()

    def on_train_epoch_end(self) -> None:
        self._log_throughput()
        if self.fast_loop is not None:
            self.fast_loop.end_epoch(self.trainer)
        self.nan_guard.check()
        self._reduce_train_outputs()
        if self._train_metric_sums:
            total = torch.stack(self._train_metric_sums).sum(0)
            total = self.trainer.strategy.reduce(total, reduce_op="sum").cpu()
            means = {f"train/{name}": total[i] / total[-1] for i, name in enumerate(self.train_metric_names)}
            self._log_metrics(means, self.global_step)

    def on_fit_end(self) -> None:
        self._resumed = False

    def _log_throughput(self) -> None:
        """Log the throughput of a single process; strategies of several measure it themselves."""
        pace = self.throughput.read()
        for logger in self.loggers if not hasattr(self.trainer.strategy, "bytes_counter") else ():
            logger.log_metrics({} if pace is None else {"throughput/samples_per_s": pace}, self.global_step)

    def metric_names(self) -> set[str]:
        return super().metric_names() | {f"train/{name}" for name in self.train_metric_names}

    @property
    def lr(self) -> float:
        """The optimizer's learning rate, which Lightning's LearningRateFinder sets. Raises UserError under a schedule."""
        if self._scheduler is not None:
            raise UserError(
                "LearningRateFinder: the schedule would overwrite the rate that it finds; use scheduler=none"
            )
        return float(getattr(self._optimizer, "keywords", {})["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        assert self._optimizer is not None
        self._optimizer = partial(self._optimizer, lr=value)

    # --- optimizer and checkpoint ------------------------------------------------------------------------------
    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self._optimizer is not None
        keywords = getattr(self._optimizer, "keywords", {})
        groups = parameter_groups(self.model, keywords.get("weight_decay"), self.decay_norms_and_biases)
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
        """Optimizer steps of the whole fit and of one epoch."""
        if self.fast_loop is not None:
            return self.fast_loop.planned_steps(self.trainer)
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        if steps in (-1, math.inf):
            raise UserError("scheduler: the number of steps is not known; set trainer.max_steps or limit_train_batches")
        total = int(steps)
        return total, max(1, total // max(1, epochs or 1))

    def on_save_checkpoint(self, checkpoint: StateDict) -> None:
        checkpoint["passport"] = self.task_spec
        if self._planned is not None:
            checkpoint["planned_steps"] = self._planned

    def on_load_checkpoint(self, checkpoint: StateDict) -> None:
        self._planned_in_checkpoint = checkpoint.get("planned_steps")
        self._resumed = True
