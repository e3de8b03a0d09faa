"""Learning rates at known steps, and schedules that go on where they stopped."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lightning_modules.config.errors import UserError
from lightning_modules.optimizer.lr_schedules import cosine, one_cycle, plan_schedule, plateau, step

Schedule = Callable[..., dict[str, Any]]


def sgd(lr: float = 1.0, momentum: float = 0.0) -> SGD:
    return SGD(nn.Linear(2, 1).parameters(), lr=lr, momentum=momentum)


def run(optimizer: Optimizer, scheduler: Any, count: int) -> list[float]:
    """The learning rate of each of `count` steps."""
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_a_cosine_starts_at_the_rate_and_ends_at_its_minimum_in_the_last_step() -> None:
    optimizer = sgd(lr=0.8)
    config = cosine(optimizer, total_steps=11, steps_per_epoch=5, min_lr=0.2)
    rates = run(optimizer, config["scheduler"], 11)
    assert config["interval"] == "step"
    assert rates[0] == 0.8
    assert rates[5] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.2, rel=1e-15)
    assert rates == sorted(rates, reverse=True)


def test_a_cosine_ends_at_exactly_zero_and_stays_there() -> None:
    optimizer = sgd()
    scheduler = cosine(optimizer, total_steps=7, steps_per_epoch=7)["scheduler"]
    assert run(optimizer, scheduler, 10)[6:] == [0.0] * 4


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 0.4}, {"warmup_steps": 4}])
def test_a_warm_up_rises_linearly_to_the_rate(warmup: dict[str, float]) -> None:
    optimizer = sgd(lr=2.0)
    scheduler = cosine(optimizer, total_steps=24, steps_per_epoch=10, **warmup)["scheduler"]  # type: ignore[arg-type]
    rates = run(optimizer, scheduler, 24)
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == pytest.approx(1 + math.cos(math.pi / 20))
    assert rates[-1] == 0.0


def test_every_group_falls_from_its_own_rate_to_the_one_minimum() -> None:
    layer = nn.Linear(2, 1)
    optimizer = SGD([{"params": [layer.weight], "lr": 1.0}, {"params": [layer.bias], "lr": 0.2}])
    run(optimizer, cosine(optimizer, total_steps=5, steps_per_epoch=5, min_lr=0.1)["scheduler"], 5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("total_steps", [1, 2])
def test_the_shortest_trainings_have_a_schedule_too(total_steps: int) -> None:
    optimizer = sgd()
    scheduler = cosine(optimizer, total_steps=total_steps, steps_per_epoch=1)["scheduler"]
    assert run(optimizer, scheduler, total_steps) == [1.0, 0.0][:total_steps]


def test_steps_fall_at_their_epochs() -> None:
    optimizer = sgd()
    config = step(optimizer, total_steps=60, steps_per_epoch=10, milestones=[2, 4], gamma=0.5)
    assert config["interval"] == "epoch"
    assert run(optimizer, config["scheduler"], 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    optimizer = sgd()
    scheduler = step(optimizer, total_steps=60, steps_per_epoch=10, every=3, gamma=0.5)["scheduler"]
    assert run(optimizer, scheduler, 6) == [1, 1, 1, 0.5, 0.5, 0.5]


def test_one_cycle_peaks_at_the_optimizers_own_rate() -> None:
    optimizer = sgd(lr=0.5)
    config = one_cycle(optimizer, total_steps=12, steps_per_epoch=5, pct_start=0.5, div_factor=10)
    rates = run(optimizer, config["scheduler"], 12)
    assert config["interval"] == "step"
    assert rates[0] == pytest.approx(0.05)
    assert rates[5] == max(rates) == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.05 / 1e4)
    peaked = sgd(lr=0.5)
    one_cycle(peaked, total_steps=11, steps_per_epoch=5, max_lr=3.0, div_factor=10)
    assert peaked.param_groups[0]["lr"] == pytest.approx(0.3)


def test_one_cycle_cycles_momentum_only_where_there_is_one() -> None:
    layer = nn.Linear(2, 1)
    plain, heavy = sgd(), sgd(momentum=0.9)
    adam, adagrad = Adam(layer.parameters()), Adagrad(layer.parameters())
    for optimizer in (plain, heavy, adam, adagrad):
        one_cycle(optimizer, total_steps=10, steps_per_epoch=5)
    assert plain.param_groups[0]["momentum"] == 0
    assert heavy.param_groups[0]["momentum"] == 0.95
    assert adam.param_groups[0]["betas"][0] == 0.95


def test_a_plateau_lowers_the_rate_when_its_metric_stands_still() -> None:
    optimizer = sgd()
    config = plateau(optimizer, 100, 10, monitor="val/accuracy", mode="max", factor=0.5, patience=1, min_lr=0.4)
    assert (config["interval"], config["monitor"]) == ("epoch", "val/accuracy")
    rates = []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6):
        config["scheduler"].step(torch.tensor(accuracy))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5, 0.4, 0.4]


SCHEDULES: list[Schedule] = [
    partial(cosine, warmup_steps=5, min_lr=1e-4),
    partial(step, milestones=[4, 9, 15]),
    partial(step, every=4),
    one_cycle,
    partial(plateau, factor=0.7, patience=1),
    partial(plan_schedule, partial(StepLR, step_size=4), {}),
    partial(plan_schedule, partial(OneCycleLR, max_lr=0.3), {}),
    partial(plan_schedule, partial(CosineAnnealingWarmRestarts, T_0=6), {"interval": "step"}),
    partial(plan_schedule, partial(ReduceLROnPlateau, patience=1), {"monitor": "val/loss"}),
    partial(
        plan_schedule,
        partial(
            SequentialLR,
            schedulers=[partial(LinearLR, total_iters=4), partial(ExponentialLR, gamma=0.9)],
            milestones=[4],
        ),
        {},
    ),
    partial(plan_schedule, partial(lambda optimizer, gamma: ExponentialLR(optimizer, gamma), gamma=0.8), {}),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_schedule_goes_on_bit_equal(schedule: Schedule, tmp_path: Path) -> None:
    def training(count: int, state: dict[str, Any] | None = None) -> tuple[list[float], dict[str, Any]]:
        layer = nn.Linear(2, 1)
        optimizer = SGD(layer.parameters(), lr=0.3, momentum=0.9)
        config = schedule(optimizer, total_steps=20, steps_per_epoch=5)
        if state:
            optimizer.load_state_dict(state["optimizer"])
            config["scheduler"].load_state_dict(state["scheduler"])
        rates = []
        for _ in range(count):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            config["scheduler"].step(*([1.0] if "monitor" in config else []))
        return rates, {"optimizer": optimizer.state_dict(), "scheduler": config["scheduler"].state_dict()}

    whole, _ = training(20)
    first, state = training(8)
    torch.save(state, tmp_path / "checkpoint.pt")
    second, _ = training(12, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert first + second == whole
    assert len(set(whole)) > 2


def test_a_cosine_resumed_for_longer_follows_the_new_length() -> None:
    short, long = sgd(), sgd()
    stopped = cosine(short, total_steps=10, steps_per_epoch=5)["scheduler"]
    run(short, stopped, 5)
    scheduler = cosine(long, total_steps=21, steps_per_epoch=5)["scheduler"]
    long.load_state_dict(short.state_dict())
    scheduler.load_state_dict(stopped.state_dict())
    rates = run(long, scheduler, 16)
    assert rates[5] == pytest.approx(0.5)
    assert rates[-1] == 0.0


def test_a_schedule_of_torch_is_stepped_as_lightning_does_by_default() -> None:
    one_cycle_rate = plan_schedule(partial(OneCycleLR, max_lr=1.0), {}, sgd(momentum=0.9), 12, 4)
    assert (one_cycle_rate["interval"], one_cycle_rate["scheduler"].total_steps) == ("step", 12)  # type: ignore[union-attr]
    by_epochs = plan_schedule(partial(OneCycleLR, max_lr=1.0, epochs=2), {}, sgd(momentum=0.9), 12, 4)
    assert by_epochs["scheduler"].total_steps == 8  # type: ignore[union-attr]
    every = plan_schedule(partial(ExponentialLR, gamma=0.5), {"interval": "step", "frequency": 2}, sgd(), 12, 4)
    assert (every["interval"], every["frequency"]) == ("step", 2)
    assert plan_schedule(partial(ExponentialLR, gamma=0.5), {}, sgd(), 12, 4)["interval"] == "epoch"
    with pytest.raises(UserError, match="cosine chooses interval itself"):
        plan_schedule(partial(cosine), {"interval": "epoch"}, sgd(), 12, 4)


def test_arguments_that_no_schedule_can_have_are_named() -> None:
    with pytest.raises(UserError, match=r"warmup_steps and scheduler.warmup_epochs exclude each other"):
        cosine(sgd(), 10, 5, warmup_epochs=1, warmup_steps=3)
    with pytest.raises(UserError, match="a warm-up of 10 steps does not fit into a training of 10 steps"):
        cosine(sgd(), 10, 5, warmup_epochs=2)
    with pytest.raises(UserError, match=r"step.every=0"):
        step(sgd(), 10, 5, every=0)
    with pytest.raises(UserError, match=r"one_cycle.pct_start=2.0: expected a value in \[0, 1\]"):
        one_cycle(sgd(), 10, 5, pct_start=2.0)
    with pytest.raises(UserError, match=r"plateau.factor=2.0: expected less than 1"):
        plateau(sgd(), 10, 5, factor=2.0)
