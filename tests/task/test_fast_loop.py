"""The quick way and the ordinary way: equal weights, equal points, equal counters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

MNIST1D = ("data=mnist1d", "model=linear", "data.batch_size=32")
DIGITS = ("data=digits", "model=convnet", "data.batch_size=32")
CASES = {
    "a smaller last batch": MNIST1D,
    "drop_last": (*MNIST1D, "data.drop_last=true"),
    "dropout": (*MNIST1D, "model=mlp", "model.dropout=0.5"),
    "batch norm and augmentation": (*DIGITS, "augmentation=image_basic", "augmentation.transforms.crop_flip.padding=1"),
    "penalties": (*MNIST1D, "task.l1=1e-3", "task.l2=1e-2"),
    "smoothed labels and class weights": (*MNIST1D, "task.label_smoothing=0.1", "task.class_weights=balanced"),
    "momentum without decay of biases": (*MNIST1D, "optimizer=momentum", "decay_norms_and_biases=false"),
    "a schedule by steps": (*MNIST1D, "scheduler=cosine", "scheduler.warmup_steps=2"),
    "a cyclic schedule": (*MNIST1D, "scheduler=one_cycle"),
    "a schedule by epochs": (*MNIST1D, "scheduler=step", "scheduler.every=1", "trainer.max_epochs=3"),
    "a stop within an epoch": (*MNIST1D, "trainer.max_steps=6", "trainer.max_epochs=9"),
    "a stop within an epoch under a schedule": (*MNIST1D, "trainer.max_steps=6", "scheduler=cosine"),
    "one logit": ("data=tabular", "data.name=breast_cancer", "model=mlp", "task=binary", "data.batch_size=10"),
    "regression": ("data=tabular", "data.name=diabetes", "data.per_class=null", "model=mlp", "task=regression"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_both_ways_give_equal_weights_points_and_counters(fit: Callable[..., Any], case: str) -> None:
    quick, ordinary = fit(*CASES[case]), fit(*CASES[case], "steps_per_call=1")
    assert quick.task.steps_per_call > 1
    assert_equal(quick, ordinary)


@pytest.mark.parametrize("steps", [2, 3])
def test_the_size_of_a_chunk_changes_nothing(fit: Callable[..., Any], steps: int) -> None:
    case = (*MNIST1D, "model=mlp", "model.dropout=0.5", "scheduler=cosine", f"steps_per_call={steps}")
    assert_equal(fit(*case), fit(*case, "steps_per_call=1"))


def assert_equal(quick: Any, ordinary: Any) -> None:
    assert quick.trainer.global_step == ordinary.trainer.global_step > 0
    assert quick.trainer.current_epoch == ordinary.trainer.current_epoch
    weights = ordinary.task.state_dict()
    for name, value in quick.task.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert any(name == "train/loss" for _, name, _ in quick.points)
    assert quick.points == ordinary.points
    assert quick.metrics == ordinary.metrics


def test_the_weights_at_the_last_step_are_validated_within_an_epoch_too(fit: Callable[..., Any]) -> None:
    run = fit(*CASES["a stop within an epoch"])
    assert 6 % run.data.steps_per_epoch()
    assert [step for step, name, _ in run.points if name == "val/loss"][-1] == 6


def test_another_seed_gives_other_weights(fit: Callable[..., Any]) -> None:
    weights = [next(fit(*MNIST1D, f"seed={seed}").task.parameters()) for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_the_penalty_costs_nothing_where_it_is_zero_and_changes_the_weights_where_it_is_not(
    fit: Callable[..., Any],
) -> None:
    none, some = fit(*MNIST1D), fit(*MNIST1D, "task.l2=1.0")
    norms = [sum(float(p.detach().square().sum()) for p in run.task.model.parameters()) for run in (none, some)]
    assert norms[1] < norms[0]


def test_train_loss_is_logged_at_the_interval_under_the_number_of_its_step(fit: Callable[..., Any]) -> None:
    run = fit(*MNIST1D, "trainer.log_every_n_steps=3")
    per_epoch = run.data.steps_per_epoch()
    assert [step for step, name, _ in run.points if name == "train/loss"] == list(range(0, 2 * per_epoch, 3))
    assert [step for step, name, _ in run.points if name == "val/loss"] == [per_epoch, 2 * per_epoch]
    assert [value for _, name, value in run.points if name == "epoch"] == [0, 1]


def test_accumulated_batches_make_one_point_a_step(fit: Callable[..., Any]) -> None:
    run = fit(*MNIST1D, "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1")
    steps = [step for step, name, _ in run.points if name == "train/loss"]
    assert steps == list(range(run.trainer.global_step))
