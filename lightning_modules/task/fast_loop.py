"""The quick way around the batches: many optimizer steps in one ``training_step``, equal to the ordinary way's."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_modules.compat.lightning import count_steps
from lightning_modules.config.errors import UserError
from lightning_modules.optimizer.lr_schedules import Plateau

Batch = dict[str, Tensor]


def take_steps(task: Any, chunk: Batch) -> None:
    """Take one optimizer step per mini-batch of `chunk`, as Lightning's automatic optimisation would.

    `task` is a `Supervised`: its loss, its log and its watch see every step under the number that it has in the
    ordinary way; at the end Lightning's own counters stand where they would stand after as many calls.
    """
    trainer: Trainer = task.trainer
    optimizer: torch.optim.Optimizer = trainer.optimizers[0]
    group = optimizer.param_groups[0]
    schedule = find_schedule(trainer, "step")
    first = step = task.global_step
    for batch in mini_batches(chunk, task.batch_size, trainer.max_steps - first if trainer.max_steps >= 0 else None):
        loss = task.training_loss(batch, step)
        optimizer.zero_grad()
        trainer.strategy.pre_backward(loss)  # ranks average their gradients in the backward pass
        loss.backward()
        trainer.strategy.post_backward(loss)
        optimizer.step()
        task.log_step(step, loss, batch["index"], group["lr"])
        if schedule is not None:
            schedule.step()
        step += 1
    count_steps(trainer, step - first)


def mini_batches(chunk: Batch, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Split a chunk into its batches, the last of which may be smaller; at most `limit` of them."""
    parts = {key: value.split(batch_size) for key, value in chunk.items()}
    for values in list(zip(*parts.values(), strict=True))[:limit]:
        yield dict(zip(parts, values, strict=True))


def find_schedule(trainer: Trainer, interval: str) -> Any:
    """What steps once per `interval` (``step`` or ``epoch``), or None: the schedule, with the metric that it watches."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == interval:
            return (
                _PlateauStepper(trainer, config.scheduler)
                if isinstance(config.scheduler, Plateau)
                else config.scheduler
            )
    return None


class _PlateauStepper:
    """A schedule on a plateau: its step takes the last value of its metric, as Lightning's automatic way hands it over."""

    def __init__(self, trainer: Trainer, scheduler: Plateau) -> None:
        self.trainer, self.scheduler = trainer, scheduler

    def step(self) -> None:
        monitor = self.scheduler.monitor
        if monitor not in self.trainer.callback_metrics:
            measured = "trainer.check_val_every_n_epoch=1 measures it in each"
            raise UserError(f"scheduler.monitor={monitor}: not measured in the first epoch; {measured}")
        self.scheduler.step(self.trainer.callback_metrics[monitor])
