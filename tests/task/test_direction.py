"""Which way a metric is better comes from one table, and a direction that contradicts it is rejected."""

import pytest

from lightning_modules.errors import UserError
from lightning_modules.task.direction import check_direction, higher_is_better, mode_of, objective_of

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
    assert mode_of(metric) == {True: "max", False: "min", None: None}[expected]


def test_a_contradiction_and_an_unknown_metric_without_a_direction_are_named() -> None:
    assert check_direction("k", "val/loss", "min") is None
    assert check_direction("k", "val/loss", None) is None
    assert check_direction("k", "my/thing", "max") is None
    assert "k=max: 'val/loss' is better the lower it is; use min" in str(check_direction("k", "val/loss", "max"))
    assert "set k=min or k=max" in str(check_direction("k", "my/thing", None))
    assert "use maximize" in str(check_direction("k", "val/f1", "minimize", ("minimize", "maximize")))


def test_the_objective_of_a_sweep_is_what_the_task_monitors() -> None:
    assert objective_of({"metric": "val/loss", "mode": "min"}) == {"val/loss": "minimize"}
    assert objective_of({"metric": "val/accuracy", "mode": None}) == {"val/accuracy": "maximize"}
    with pytest.raises(UserError, match=r"task\.monitor\.mode=max: 'val/loss' is better the lower"):
        objective_of({"metric": "val/loss", "mode": "max"})
