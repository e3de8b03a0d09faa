"""Which way a metric is better comes from one table, and a direction that contradicts it is rejected."""

import re

import pytest

from lightning_modules.comparison.selection import lower_is_better
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.metric_direction import check_direction, higher_is_better, sweep_objective
from lightning_modules.sweep.search_settings import check_search

HIGHER = (
    "val/accuracy", "test/ndcg_at_10", "val/sampled_hit_rate_at_10", "val/class_accuracy/error", "test/top5_accuracy",
    "ticket/test/accuracy_best_val", "throughput/samples_per_s", "compression/ratio", "compression/speedup_best_runtime",
)  # fmt: skip
LOWER = (
    "val/loss",
    "train/epoch_loss",
    "val_loss",
    "test/mae/0",
    "model/latency_ms",
    "compressed/size_bytes",
    "comm/time_s",
)
UNKNOWN = ("weights/norm", "loss_ratio", "neg_mean_squared_error", "lr", "epoch", "", "val/")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [*((m, True) for m in HIGHER), *((m, False) for m in LOWER), *((m, None) for m in UNKNOWN)],
)
def test_the_direction_of_a_metric_follows_from_its_base_name(metric: str, expected: bool | None) -> None:
    assert higher_is_better(metric) is expected


def test_a_contradiction_and_an_unknown_metric_without_a_direction_are_named() -> None:
    assert check_direction("k", "val/loss", "min") is None
    assert check_direction("k", "my/thing", "max") is None
    assert "k=max: a lower 'val/loss' is better; set k=min" in str(check_direction("k", "val/loss", "max"))
    assert "set k=min or k=max" in str(check_direction("k", "my/thing", None))
    assert "set k=maximize" in str(check_direction("k", "val/f1", "minimize", ("minimize", "maximize")))


def test_the_objective_of_a_sweep_is_what_the_task_monitors() -> None:
    assert sweep_objective({"metric": "val/loss", "mode": "min"}) == {"val/loss": "minimize"}
    assert sweep_objective({"metric": "my/thing", "mode": "max"}) == {"my/thing": "maximize"}
    with pytest.raises(UserError, match=r"task\.monitor\.mode=max: a lower 'val/loss' is better"):
        sweep_objective({"metric": "val/loss", "mode": "max"})


def test_the_mode_of_callbacks_and_schedules_follows_their_metric() -> None:
    cfg = compose_run(["callbacks=early_stopping", "task.monitor.metric=val/loss", "scheduler=plateau"])
    callbacks = cfg.callbacks
    assert [cfg.task.monitor.mode, callbacks.best.mode, callbacks.early_stopping.mode] == ["min"] * 3
    assert cfg.scheduler.mode == "min"
    check_config(cfg)
    other = compose_run(["callbacks.best.monitor=val/loss", "scheduler=plateau", "scheduler.monitor=val/accuracy"])
    assert (other.task.monitor.mode, other.callbacks.best.mode, other.scheduler.mode) == ("max", "min", "max")


def test_the_mode_of_an_unknown_metric_is_that_of_the_task_where_it_monitors_the_same() -> None:
    cfg = compose_run(["task.monitor.metric=my/thing", "task.monitor.mode=min"])
    assert cfg.callbacks.best.mode == "min"
    check_config(cfg)


STOPPING = "+callbacks.mine={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: %s}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("task.monitor.metric=val/loss", "task.monitor.mode=max"),
            "task.monitor.mode=max: a lower 'val/loss' is better",
        ),
        (("task.monitor.metric=my/thing",), "task.monitor.mode: the direction of 'my/thing' is not known"),
        (("task.monitor.mode=null",), "task.monitor.mode=null: a higher 'val/accuracy' is better"),
        (("callbacks.best.mode=min",), "callbacks.best.mode=min: a higher 'val/accuracy' is better"),
        (("callbacks.best.monitor=my/thing",), "callbacks.best.mode: the direction of 'my/thing' is not known"),
        ((STOPPING % "val/accuracy",), "callbacks.mine.mode=min: a higher 'val/accuracy' is better"),
        ((STOPPING % "my/thing",), "callbacks.mine.mode: the direction of 'my/thing' is not known"),
        (("scheduler=plateau", "scheduler.mode=max"), "scheduler.mode=max: a lower 'val/loss' is better"),
    ],
)
def test_a_wrong_direction_in_the_config_is_rejected_before_training(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_config(compose_run(list(words)))


def test_a_search_rejects_an_objective_in_the_wrong_direction() -> None:
    said = check_search({"objectives": {"val/loss": "maximize", "my/thing": "maximize"}})
    assert said == [
        "search.objectives.val/loss=maximize: a lower 'val/loss' is better; set search.objectives.val/loss=minimize"
    ]


def test_a_comparison_takes_the_direction_from_the_name_then_the_user_then_the_sweep() -> None:
    assert lower_is_better("val/loss", None, {"val/loss": "maximize"})  # a sweep that was recorded with a wrong mode
    assert lower_is_better("my/thing", "lower", {"my/thing": "maximize"})
    assert not lower_is_better("my/thing", None, {"my/thing": "maximize"})
    with pytest.raises(UserError, match="better: the direction of 'my/thing' is not known"):
        lower_is_better("my/thing", None, {})
    with pytest.raises(UserError, match="better=higher: a lower 'test/loss' is better"):
        lower_is_better("test/loss", "higher", {})


def test_a_task_that_monitors_nothing_has_no_objective_and_one_of_unknown_direction_needs_a_mode() -> None:
    assert sweep_objective({"metric": None, "mode": None}) == {}
    with pytest.raises(UserError, match=r"task\.monitor\.mode: the direction of 'score' is not known"):
        sweep_objective({"metric": "score", "mode": None})
