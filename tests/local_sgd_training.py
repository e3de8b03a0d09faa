"""Small trainings of ranks that step by themselves, for what they leave behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.strategy.ddp import CheckedDDP
from lightning_modules.zoo.strategy.local_sgd import AsynchronousAveraging, DiLoCo, LocalSGD
from lightning_modules.zoo.strategy.local_steps import LocalSteps

STEPS_PER_EPOCH, BATCH = 10, 4
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
ALGORITHMS: dict[str, Callable[[], LocalSteps]] = {  # epochs end within periods
    "local_sgd": lambda: LocalSGD(4, threads=1),
    "post_local_sgd": lambda: LocalSGD(4, synchronous_steps=7, threads=1),
    "diloco": lambda: DiLoCo(4, outer_lr=0.5, outer_momentum=0.8, threads=1),
    "async_averaging": lambda: AsynchronousAveraging(4, threads=1),
}


def ddp() -> CheckedDDP:
    return CheckedDDP(threads=1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 1)).double()


class Batches:
    """The batches of an epoch of one rank; together the ranks have the batches of one process."""

    def __init__(self, rank: int = 0, ranks: int = 2) -> None:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2 * STEPS_PER_EPOCH * BATCH, 6, dtype=torch.float64, generator=generator)
        self.x, self.y = x[rank::ranks], (x.prod(1, keepdim=True) + x[:, :1])[rank::ranks]

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for x, y in zip(self.x.split(BATCH), self.y.split(BATCH), strict=True):
            yield {"x": x, "y": y}


class Task(pl.LightningModule):
    """Fits the network."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.model, self.kind = network(), optimizer

    def training_step(self, batch: Any, index: int) -> Tensor:
        return loss_of(self.model, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.trainer.callback_metrics["seen"] = self.model[0].weight.detach().norm()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.kind](self.model.parameters())

    def train_dataloader(self) -> Any:
        return Batches(self.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        return Batches(self.global_rank, self.trainer.world_size)


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])


def train(
    strategy: CheckedDDP, optimizer: str = "momentum", resume: Path | None = None, **settings: Any
) -> dict[str, Tensor]:
    """Train three epochs with two ranks, or as `settings` of the trainer say; the weights and buffers that are left."""
    task = Task(optimizer)
    settings = {"max_epochs": 3, "devices": 2, "limit_val_batches": 0, "logger": False, **settings}
    trainer = pl.Trainer(
        accelerator="cpu", strategy=strategy, use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(task, ckpt_path=str(resume) if resume else None, weights_only=True)
    return {key: value.clone() for key, value in task.model.state_dict().items()}


class SaveEveryEpoch(pl.Callback):
    """Writes ``0.ckpt``, ``1.ckpt`` … when an epoch ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def max_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of two states."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs)


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state without the statistics of batch norm: under DDP those are of rank 0 alone."""
    return {key: value for key, value in state.items() if not key.startswith("2.")}
