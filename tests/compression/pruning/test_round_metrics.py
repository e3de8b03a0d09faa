from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.compression.pruning.lottery import RoundMetrics
from lightning_modules.tracking.rerun import metric_histories


def test_a_round_keeps_the_last_the_best_on_test_and_the_best_by_validation() -> None:
    measures = RoundMetrics()
    for val, test, loss in ((0.5, 0.60, 3.0), (0.8, 0.70, 1.0), (0.7, 0.75, 2.0), (0.8, 0.65, 2.5)):
        measures.update({"val/accuracy": val, "test/accuracy": test, "test/loss": loss, "test/class_accuracy/0": 1.0})
    assert measures.named() == {
        "test/accuracy": 0.65, "test/accuracy_best": 0.75, "test/accuracy_best_val": 0.70,
        "test/loss": 2.5, "test/loss_best": 1.0,
    }  # fmt: skip


def test_a_round_that_is_resumed_goes_on_with_what_it_has_seen() -> None:
    whole, first, second = RoundMetrics(), RoundMetrics(), RoundMetrics()
    points = [{"val/accuracy": v, "test/accuracy": t} for v, t in ((0.3, 0.2), (0.9, 0.4), (0.5, 0.6))]
    for point in points:
        whole.update(point)
    for point in points[:2]:
        first.update(point)
    second.seen = first.seen
    second.update(points[2])
    assert second.named() == whole.named()


def test_nothing_is_told_where_the_test_part_is_not_watched_or_the_round_is_new() -> None:
    measures = RoundMetrics()
    measures.update({"val/accuracy": 0.5})
    assert measures.named() == {}
    measures.update({"test/accuracy": 0.5})
    measures.reset()
    assert measures.named() == {}


TICKET = (
    "compression=lottery_ticket", "compression.stages.prune.rounds=2", "compression.stages.prune.steps=equal",
    "compression.runtimes=[]", "data.watch_test=true", "tracking.pictures=false",
)  # fmt: skip


@pytest.mark.slow
def test_each_round_logs_what_it_measured_and_the_runs_own_test_metrics_stay(
    store: Any, train: Callable[..., Any]
) -> None:
    found = train(*TICKET)
    points = metric_histories(store, found.info.run_id)
    assert [value for _, value in points["lottery/sparsity"]] == pytest.approx([0.45, 0.9], abs=1e-3)
    watched = [value for _, value in points["prune/test/accuracy"]]  # two epochs in each of two rounds
    assert [value for _, value in points["lottery/test/accuracy"]] == [watched[1], watched[3]]
    best = [value for _, value in points["lottery/test/accuracy_best"]]
    assert best == [max(watched[:2]), max(watched[2:])]
    metrics = found.data.metrics
    assert metrics["ticket/test/accuracy"] == watched[3] == pytest.approx(metrics["compressed/test/accuracy"])
    assert metrics["ticket/test/accuracy_best"] == best[1]
    assert "ticket/test/accuracy_best_val" in metrics
    assert metrics["test/accuracy"] == metrics["dense/test/accuracy"]
    assert len(points["test/accuracy"]) == 3, "two validations and the final test of the dense network"
