"""The test part, measured beside the validation: by step, chosen by nothing, and the final test is what it was."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.rerun import metric_histories

LINEAR = ("data=digits", "model=linear", "data.batch_size=20")
RISING = ("optimizer=sgd", "optimizer.lr=30", "task.monitor.metric=val/loss")  # the first epoch has the lowest loss
WATCHED = (*LINEAR, "data.watch_test=true")


def points(run: Any, name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, key, value in run.points if key == name]


@pytest.mark.parametrize("way", ["steps_per_call=auto", "steps_per_call=1"])
@pytest.mark.parametrize("val", ["data.val_fraction=0.1", "data.val_fraction=0"])
def test_the_test_part_is_measured_at_each_validation(fit: Callable[..., Any], way: str, val: str) -> None:
    run = fit(*WATCHED, way, val, "trainer.max_epochs=3")
    assert (run.task.steps_per_call > 1) == (way == "steps_per_call=auto")
    seen = points(run, "test/accuracy")
    assert [step for step, _ in seen] == [6, 12, 18, 18]  # the last is the final test
    assert seen[-1] == seen[-2]
    outputs, y = run.predict("test")
    assert seen[-1][1] == pytest.approx(float((outputs.argmax(-1) == y).float().mean()))
    assert len(points(run, "test/loss")) == 4
    assert len(points(run, "epoch")) == 3
    assert [step for step, _ in points(run, "val/loss")] == ([] if val.endswith("=0") else [6, 12, 18])


def test_watching_changes_neither_the_training_nor_the_final_test(fit: Callable[..., Any]) -> None:
    plain, watched = fit(*LINEAR), fit(*WATCHED)
    assert [point for point in watched.points if not point[1].startswith("test/")] == [
        point for point in plain.points if not point[1].startswith("test/")
    ]
    final = [(name, value) for _, name, value in watched.points if name.startswith("test/")]
    known = [(name, value) for _, name, value in plain.points if name.startswith("test/")]
    assert final[-len(known) :] == known


@pytest.mark.slow
def test_the_last_value_in_the_store_is_that_of_the_tested_weights(train: Callable[..., Any]) -> None:
    """Best weights of an earlier step are tested: a watched value of a later step must not pass for theirs."""
    run = train("data.watch_test=true", "trainer.max_epochs=3", *RISING, "+callbacks.best.save_top_k=1")  # fmt: skip
    plain = train("trainer.max_epochs=3", *RISING, "+callbacks.best.save_top_k=1")  # fmt: skip
    assert run.data.metrics["test/loss"] < run.data.metrics["val/loss"]
    assert run.data.metrics["test/loss"] == plain.data.metrics["test/loss"]


def test_nothing_can_be_chosen_by_the_test_part(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="monitors 'test/accuracy', which is never logged"):
        train("data.watch_test=true", "callbacks.best.monitor=test/accuracy")


def test_the_test_part_is_watched_as_often_as_validation_is_asked_for(fit: Callable[..., Any]) -> None:
    run = fit(*WATCHED, "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2")
    assert [step for step, _ in points(run, "test/loss")] == [12, 24, 24]


@pytest.mark.slow
def test_two_processes_watch_what_one_watches(train: Callable[..., Any], store: Any) -> None:
    """The same global batches give the same weights, and each test sample counts once."""
    case = ("data.watch_test=true", "callbacks=last", "model=linear")
    one = train(*case, "data.batch_size=20")
    two = train(*case, "data.batch_size=10", "trainer=ddp", "trainer.max_epochs=2")
    ours, theirs = (metric_histories(store, run.info.run_id)["test/loss"] for run in (two, one))
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-5)


@pytest.mark.slow
def test_a_resumed_run_watches_on(store: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = ("data.watch_test=true", "callbacks=last", "callbacks.last.every_s=0", "trainer.max_epochs=4")
    whole = metric_histories(store, train(*case).info.run_id)["test/loss"]
    start = Supervised.on_train_epoch_start

    def stop(self: Supervised) -> None:
        start(self)
        if self.current_epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", stop)
        train(*case)
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    killed = store.client.search_runs(experiments, "attributes.status = 'KILLED'")[0]
    run(compose_run([f"resume={killed.info.run_id}"]))
    assert metric_histories(store, killed.info.run_id)["test/loss"] == whole
