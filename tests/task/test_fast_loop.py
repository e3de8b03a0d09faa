"""The fast and the ordinary loop: equal weights, points and counters, and the ordinary one where single steps matter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, ModelCheckpoint

from lightning_modules.config.errors import UserError

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
    "torch's schedule by epochs": (*MNIST1D, "+scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=1"),
    "torch's schedule by steps": (*MNIST1D, "+scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.1"),
    "torch's plateau": (*MNIST1D, "+scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "+scheduler.patience=0"),
    "a schedule by epochs": (*MNIST1D, "scheduler=step", "scheduler.every=1", "trainer.max_epochs=3"),
    "a stop within an epoch": (*MNIST1D, "trainer.max_steps=6", "trainer.max_epochs=9"),
    "a stop within an epoch under a schedule": (*MNIST1D, "trainer.max_steps=6", "scheduler=cosine"),
    "one logit": ("data=tabular", "data.name=breast_cancer", "model=mlp", "task=binary", "data.batch_size=10"),
    "regression": ("data=tabular", "data.name=diabetes", "data.per_class=null", "model=mlp", "task=regression"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_both_loops_give_equal_weights_points_and_counters(fit: Callable[..., Any], case: str) -> None:
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


def test_validation_within_an_epoch_happens_where_it_is_asked_for(fit: Callable[..., Any]) -> None:
    run = fit(*MNIST1D, "+trainer.val_check_interval=0.5")
    per_epoch = run.data.steps_per_epoch()
    half = per_epoch // 2
    validated = [step for step, name, _ in run.points if name == "val/loss"]
    assert run.task.steps_per_call == 1
    assert validated == [half, 2 * half, per_epoch + half, per_epoch + 2 * half]


def test_a_checkpoint_every_few_steps_is_written(fit: Callable[..., Any], tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    run = fit(*MNIST1D, callbacks=(checkpoint,))
    steps = sorted(int(path.stem.removeprefix("step=")) for path in tmp_path.glob("step=*.ckpt"))
    assert steps == list(range(5, run.trainer.global_step + 1, 5)) != []


def test_a_number_of_batches_is_not_a_number_of_chunks(fit: Callable[..., Any]) -> None:
    assert fit(*MNIST1D, "trainer.limit_train_batches=1").trainer.global_step == 2


@pytest.mark.parametrize("scheduler", ["none", "cosine"])
def test_a_run_is_trained_after_its_batch_size_was_found(
    build_run: Callable[..., Any], scheduler: str, capsys: Any
) -> None:
    finder = BatchSizeFinder(steps_per_trial=2, max_trials=2)
    run = build_run(*MNIST1D, f"scheduler={scheduler}", callbacks=(finder,))
    run.trainer.fit(run.task, datamodule=run.data)
    assert run.task.steps_per_call == 1 and run.trainer.current_epoch == 2
    assert run.trainer.global_step == 2 * run.data.steps_per_epoch()
    assert [step for step, name, _ in run.points if name == "val/loss"] == [
        run.data.steps_per_epoch(),
        2 * run.data.steps_per_epoch(),
    ]
    warning = "scheduler: planned for 8 steps, but data.batch_size=4"
    assert (warning in capsys.readouterr().err) == (scheduler == "cosine")


def test_many_steps_a_call_are_refused_where_single_steps_matter(build_run: Callable[..., Any], tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=5)
    message = r"^steps_per_call=3: trainer.val_check_interval=0.5, ModelCheckpoint acts on single steps"
    with pytest.raises(UserError, match=message):
        build_run(*MNIST1D, "+trainer.val_check_interval=0.5", "steps_per_call=3", callbacks=(checkpoint,))
