"""The training loss of an epoch, and what watches it: a plateau and the best checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.config.errors import UserError

WATCHED = (
    "data=mnist1d", "model=mlp", "model.dropout=0.5", "data.batch_size=32", "data.val_fraction=0",
    "callbacks=lowest_train_loss", "~callbacks.best", "trainer.max_epochs=6", "optimizer.lr=0.05",
)  # fmt: skip
PLATEAU = ("scheduler=plateau", "scheduler.monitor=train/epoch_loss", "scheduler.patience=0", "scheduler.threshold=0.2")


class Losses(pl.Callback):
    """Keeps (loss, samples) of each step, and the learning rate at each epoch's end."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int]] = []
        self.rates: list[float] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.extra_losses.append(self.see)

    def see(self, loss: Any, outputs: Any, batch: Any) -> Any:
        self.steps.append((float(loss.detach()), len(batch["y"])))
        return loss

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def logged(run: Any) -> list[float]:
    return [value for _, name, value in run.points if name == "train/epoch_loss"]


def test_it_is_the_mean_over_the_samples_of_the_epoch_with_a_smaller_last_batch(fit: Callable[..., Any]) -> None:
    losses = Losses()
    run = fit(*WATCHED, "trainer.max_epochs=2", callbacks=(losses,))
    per_epoch = len(losses.steps) // 2
    for epoch, value in enumerate(logged(run)):
        steps = losses.steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert len({size for _, size in steps}) == 2
        assert value == pytest.approx(sum(loss * size for loss, size in steps) / sum(size for _, size in steps), 1e-5)


@pytest.mark.slow
def test_a_plateau_of_it_lowers_the_rate_alike_in_both_ways(fit: Callable[..., Any]) -> None:
    quick, ordinary = Losses(), Losses()
    runs = [
        fit(*WATCHED, *PLATEAU, *way, callbacks=(kept,))
        for way, kept in (((), quick), (("steps_per_call=1",), ordinary))
    ]
    assert runs[0].task.steps_per_call > 1 == runs[1].task.steps_per_call
    assert quick.rates == ordinary.rates and quick.rates[-1] < quick.rates[0]
    assert len(logged(runs[0])) == 6 and runs[0].points == runs[1].points
    weights = runs[1].task.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in runs[0].task.state_dict().items())


@pytest.mark.slow
def test_a_plateau_of_a_metric_that_is_not_measured_in_time_is_told(fit: Callable[..., Any]) -> None:
    late = ("scheduler=plateau", "data.val_fraction=0.1", "trainer.check_val_every_n_epoch=2")
    with pytest.raises(UserError, match=r"scheduler.monitor=val/loss: not logged in the first epoch"):
        fit(*WATCHED, *late)


def test_the_checkpoint_is_of_the_epoch_with_the_lowest_loss(fit: Callable[..., Any], tmp_path: Path) -> None:
    folder = f"+callbacks.best.dirpath='{tmp_path}'"
    used = [word for word in WATCHED if word != "~callbacks.best"]
    run = fit(*used, folder, "optimizer=adam", "optimizer.lr=3.0")  # too large: the loss goes up and down
    losses = logged(run)
    lowest = min(range(6), key=losses.__getitem__)
    assert lowest < 5, "the case needs a best epoch that is not the last one"
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["epoch"] == lowest
    assert best["global_step"] == (lowest + 1) * run.data.steps_per_epoch()
