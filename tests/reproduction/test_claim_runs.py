"""Which of a run's points is its value, by the selection rule; read from a real store."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.reproduction.claim_runs import ClaimRun, missing_metric_hint, missing_runs, read_values
from lightning_modules.sweep.trial_results import TrialResult

HISTORY = {40: 0.5, 80: 0.9, 120: 0.7}  # step -> test/accuracy, at the ends of epochs 0, 1, 2


@pytest.fixture
def recorded(store: Any) -> Callable[..., TrialResult]:
    """A finished run with these points, as the child of that number."""

    def make(number: int, points: dict[int, float], status: str = "FINISHED") -> TrialResult:
        run = store.client.create_run(store.experiment("made"))
        for epoch, (step, value) in enumerate(points.items()):
            store.client.log_metric(run.info.run_id, "test/accuracy", value, step=step)
            store.client.log_metric(run.info.run_id, "epoch", epoch, step=step)
        return TrialResult(number, run.info.run_id, str(number), {}, status, {}, {}, 1.0)

    return make


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"selection": "last"}, 70.0),
        ({"selection": "best_test"}, 90.0),
        ({"selection": "best_test", "better": "lower"}, 50.0),
        ({"selection": "last", "kind": "curve", "epoch": 2}, 90.0),
        ({"selection": "last", "unit": "share"}, 0.7),
    ],
)
def test_the_selection_rule_decides_which_point_counts(
    store: Any,
    recorded: Callable[..., TrialResult],
    new_claim: Callable[..., Any],
    changes: dict[str, Any],
    value: float,
) -> None:
    found = read_values(store, new_claim(**changes), [ClaimRun("", 7, None)], [recorded(0, HISTORY)])
    assert found == {"": {7: pytest.approx(value)}}


def test_the_value_of_an_epoch_that_was_not_reached_is_missing(
    store: Any, recorded: Callable[..., TrialResult], new_claim: Callable[..., Any]
) -> None:
    found = read_values(store, new_claim(kind="curve", epoch=9), [ClaimRun("", 7, None)], [recorded(0, HISTORY)])
    assert found == {"": {}}
    assert missing_runs(found, [7]) == ["seed 7"]


def test_the_last_value_of_a_run_that_ends_with_its_epoch_is_that_of_the_epoch(
    store: Any, recorded: Callable[..., TrialResult], new_claim: Callable[..., Any]
) -> None:
    claim = new_claim(kind="curve", epoch=1)
    assert read_values(store, claim, [ClaimRun("", 7, None)], [recorded(0, {468: 0.85})]) == {
        "": {7: pytest.approx(85.0)}
    }


def test_a_run_without_the_metric_lists_those_it_has(store: Any, recorded: Callable[..., TrialResult]) -> None:
    children = [recorded(0, HISTORY, "FAILED"), recorded(1, HISTORY)]
    assert missing_metric_hint(store, "test/accuracy", children) is None
    said = missing_metric_hint(store, "test/acuracy", children)
    assert said == (
        f"Run {children[1].run_id} has no metric 'test/acuracy'; did you mean 'test/accuracy'? (all: epoch, test/accuracy)"
    )


def test_a_seed_is_the_mean_of_its_folds_and_is_missing_where_one_failed(
    store: Any, recorded: Callable[..., TrialResult], new_claim: Callable[..., Any]
) -> None:
    parts = [ClaimRun("", seed, fold) for seed in (1, 2) for fold in (0, 1)]
    children = [recorded(0, {1: 0.2}), recorded(1, {1: 0.4}), recorded(2, {1: 0.6}), recorded(3, {1: 0.8}, "FAILED")]
    found = read_values(store, new_claim(folds=2), parts, children)
    assert found == {"": {1: pytest.approx(30.0)}}
    assert missing_runs(found, [1, 2]) == ["seed 2"]
