"""Two ranks with local steps end at the weights of two models in one process that are averaged by hand."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from local_sgd_training import ALGORITHMS, OPTIMIZERS, Batches, ddp, loss_of, max_difference, network, train, weights
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.strategy.local_sgd import AsynchronousAveraging, DiLoCo, LocalSGD
from lightning_modules.zoo.strategy.local_steps import LocalSteps

HUNDRED_STEPS = {"max_epochs": 10}


# --- by hand ---------------------------------------------------------------------------------------------------
def by_hand(algorithm: str, optimizer: str, epochs: int = 3, period: int = 4) -> dict[str, Tensor]:
    """Two models in one process, averaged by loops over their tensors."""
    models = [network(), network()]
    optimizers = [OPTIMIZERS[optimizer](m.parameters()) for m in models]
    outer = copy.deepcopy(models[0])
    outer_optimizer = torch.optim.SGD(outer.parameters(), lr=0.5, momentum=0.8, nesterov=True)
    began: list[list[Tensor]] = []
    for step, both in enumerate(itertools.chain(*[list(zip(Batches(0), Batches(1), strict=True))] * epochs), 1):
        synchronous = algorithm == "post_local_sgd" and step <= 7
        for model, inner, batch in zip(models, optimizers, both, strict=True):
            inner.zero_grad()
            loss_of(model, batch).backward()
        if synchronous:
            for pair in zip(*(m.parameters() for m in models), strict=True):
                mean = (pair[0].grad + pair[1].grad) / 2  # type: ignore[operator]
                pair[0].grad, pair[1].grad = mean, mean.clone()
        for inner in optimizers:
            inner.step()
        since = step - 7 if algorithm == "post_local_sgd" else step
        if synchronous or since % period:
            continue
        if algorithm == "async_averaging":
            if began:
                apply_late(models, began)
            began = [[p.detach().clone() for p in m.parameters()] for m in models]
        elif algorithm == "diloco":
            for w, *pair in zip(outer.parameters(), *(m.parameters() for m in models), strict=True):
                w.grad = w.detach() - (pair[0].detach() + pair[1].detach()) / 2
            outer_optimizer.step()
            for model in models:
                put(model.parameters(), outer.parameters())
        else:
            middle = mean_of(models)
            for model in models:
                put(model.parameters(), middle)
    put(models[0].parameters(), mean_of(models))
    for mine, other in zip(models[0].buffers(), models[1].buffers(), strict=True):
        if mine.is_floating_point():
            mine.add_(other).div_(2)
    return models[0].state_dict()


def mean_of(models: list[nn.Sequential]) -> list[Tensor]:
    return [(a.detach() + b.detach()) / 2 for a, b in zip(*(m.parameters() for m in models), strict=True)]


def put(into: Any, values: Any) -> None:
    with torch.no_grad():
        for parameter, value in zip(into, values, strict=True):
            parameter.copy_(value)


def apply_late(models: list[nn.Sequential], began: list[list[Tensor]]) -> None:
    means = [(a + b) / 2 for a, b in zip(*began, strict=True)]
    for model, starts in zip(models, began, strict=True):
        put(model.parameters(), [m + p.detach() - s for m, p, s in zip(means, model.parameters(), starts, strict=True)])


@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [*((name, "momentum") for name in ALGORITHMS), ("local_sgd", "adam"), ("diloco", "adam")],
)
def test_two_ranks_end_where_two_models_end_that_are_averaged_by_hand(algorithm: str, optimizer: str) -> None:
    ours, theirs = train(ALGORITHMS[algorithm](), optimizer), by_hand(algorithm, optimizer)
    assert max_difference(weights(ours), weights(theirs)) < 1e-12
    if algorithm != "post_local_sgd":  # whose statistics are at first those of rank 0
        assert max_difference(ours, theirs) < 1e-12


# --- equal to DDP ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_with_a_period_of_one_and_momentum_a_hundred_steps_are_those_of_ddp() -> None:
    ours, theirs = (train(strategy, "momentum", **HUNDRED_STEPS) for strategy in (LocalSGD(1, threads=1), ddp()))
    assert max_difference(weights(ours), weights(theirs)) < 1e-12


@pytest.mark.slow
def test_with_a_period_of_one_and_an_outer_step_of_one_a_hundred_steps_of_sgd_are_those_of_ddp() -> None:
    outer = DiLoCo(1, outer_lr=1.0, outer_momentum=0.0, threads=1)
    ours, theirs = (train(strategy, "sgd", **HUNDRED_STEPS) for strategy in (outer, ddp()))
    assert max_difference(weights(ours), weights(theirs)) < 1e-12


def test_with_a_period_of_one_and_adam_they_are_not() -> None:
    ours, theirs = (train(strategy, "adam") for strategy in (LocalSGD(1, threads=1), ddp()))
    assert max_difference(weights(ours), weights(theirs)) > 1e-4


def test_steps_are_counted_and_not_the_batches_whose_gradients_are_accumulated() -> None:
    settings = {"accumulate_grad_batches": 5, "max_epochs": 4}
    ours, theirs = (train(strategy, "momentum", **settings) for strategy in (LocalSGD(1, threads=1), ddp()))
    assert max_difference(weights(ours), weights(theirs)) < 1e-12


@pytest.mark.parametrize("algorithm", ["local_sgd", "async_averaging"])
def test_one_process_trains_as_if_there_were_no_strategy(algorithm: str) -> None:
    assert max_difference(train(ALGORITHMS[algorithm](), devices=1), train(ddp(), devices=1)) == 0.0


# --- what is sent ----------------------------------------------------------------------------------------------
def metrics_of(folder: Path, strategy: LocalSteps, **settings: Any) -> dict[str, list[float]]:
    train(strategy, logger=pl.loggers.CSVLogger(folder, name="", version=""), **settings)
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    columns = dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True))
    return {key: [float(value) for value in values if value] for key, values in columns.items()}


@pytest.mark.parametrize("period", [2, 5])
def test_a_step_sends_an_hth_of_the_gradients_bytes(period: int, tmp_path: Path) -> None:
    full = 8 * sum(p.numel() for p in network().parameters())
    sent = metrics_of(tmp_path, LocalSGD(period, threads=1), max_epochs=8)["comm/bytes"]
    assert 0.95 * full / period <= sum(sent) / len(sent) <= 1.1 * full / period


def test_the_mean_that_is_applied_is_one_period_old(tmp_path: Path) -> None:
    told = metrics_of(tmp_path, AsynchronousAveraging(4, threads=1), max_epochs=8)
    assert told["comm/staleness_steps"] == [4.0] * 19
    full = 8 * sum(p.numel() for p in network().parameters())
    assert sum(told["comm/bytes"]) / len(told["comm/bytes"]) <= 1.1 * full / 4


def test_a_mean_that_is_applied_once_it_is_there_is_no_older_than_a_period(tmp_path: Path) -> None:
    ages = metrics_of(tmp_path, AsynchronousAveraging(10, apply="done", threads=1))["comm/staleness_steps"]
    assert ages and all(1 <= age <= 10 for age in ages)


# --- mistakes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: LocalSGD(0), r"^LocalSGD.period=0: expected 1 or more"),
        (lambda: LocalSGD(4, synchronous_steps=-1), r"^LocalSGD.synchronous_steps=-1"),
        (lambda: DiLoCo(4, outer_lr=0.0), r"^DiLoCo.outer_lr=0.0"),
        (lambda: DiLoCo(4, outer_momentum=1.0), r"^DiLoCo.outer_momentum=1.0"),
        (lambda: AsynchronousAveraging(4, apply="periodend"), r"did you mean 'period_end'"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_named(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        wrong()


def test_what_needs_equal_weights_at_every_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"^trainer.sync_batchnorm"):
        train(LocalSGD(4), sync_batchnorm=True)
    with pytest.raises(Exception, match="EMAWeightAveraging reads the weights"):
        train(LocalSGD(4), callbacks=[pl.callbacks.EMAWeightAveraging()])
