"""The best of a sweep is a configuration, not a lucky seed or fold; its run has the mean, spread and best of its trials."""

import math
from dataclasses import replace
from typing import Any

import pytest
from sweep_fixture import BOTH, LOSS, RESUME, Sweep, made_up

from lightning_modules.sweep.configurations import metrics_of_children, ranked_configurations
from lightning_modules.sweep.summary import mlflow_description
from lightning_modules.sweep.trial_results import Fold, TrialResult
from lightning_modules.sweep.trial_table import best_trial, highlighted, pareto_front, sorted_trials, to_html

# lr=1 has the luckiest seed, lr=2 the better mean
LUCKY = [(1, 0, 0.1), (1, 1, 0.9), (2, 0, 0.4), (2, 1, 0.3)]


def trials(values: Any = LUCKY) -> list[TrialResult]:
    return [made_up(i, {"lr": lr, "seed": seed}, val__loss=loss) for i, (lr, seed, loss) in enumerate(values)]


def test_the_best_is_the_configuration_with_the_best_mean() -> None:
    best = best_trial(trials(), LOSS)
    assert best is not None
    assert (best.name, best.params, best.run_id) == ("lr=2, mean of 2 runs", {"lr": 2}, f"{2:032x}")
    assert best.values == {"val/loss": pytest.approx(0.35)}
    assert highlighted(trials(), LOSS) == {2, 3}
    assert [one.number for one in sorted_trials(trials(), LOSS)] == [2, 3, 0, 1]
    assert to_html(trials(), LOSS, "x").count('<tr class="best ') == 2


def test_a_configuration_with_fewer_finished_trials_comes_last() -> None:
    tried = trials()
    tried[1] = replace(tried[1], status="FAILED", values={"val/loss": None})
    assert [one.mean.name for one in ranked_configurations(tried, LOSS)] == ["lr=2, mean of 2 runs", "lr=1 seed=0"]


@pytest.mark.parametrize("key", ["seed", "data.seed", "data.split_seed", "data.fold"])
def test_seeds_and_folds_repeat_a_configuration(key: str) -> None:
    tried = [made_up(i, {"lr": lr, key: seed}, val__loss=loss) for i, (lr, seed, loss) in enumerate(LUCKY)]
    assert [len(one.trials) for one in ranked_configurations(tried, LOSS)] == [2, 2]


def test_with_one_trial_each_the_best_is_the_trial() -> None:
    tried = [made_up(i, {"lr": i, "seed": 7}, val__loss=float(i)) for i in range(3)]
    assert best_trial(tried, LOSS) is tried[0]
    same = [made_up(i, {"lr": 1}, val__loss=float(i)) for i in range(2)]  # a search may try a point twice
    assert best_trial(same, LOSS) is same[0]


def test_the_front_is_over_configurations() -> None:
    points = [("a", 0, 0.9, 10), ("a", 1, 0.1, 10), ("b", 0, 0.6, 10), ("b", 1, 0.6, 10)]
    tried = [
        made_up(i, {"model": m, "seed": s}, val__accuracy=a, model__size_bytes=b)
        for i, (m, s, a, b) in enumerate(points)
    ]
    assert [one.mean.name for one in pareto_front(tried, BOTH)] == ["model=b, mean of 2 runs"]


def test_the_description_names_the_configuration() -> None:
    note = mlflow_description(trials(), LOSS, "1", "f" * 32, RESUME)
    assert "**Best:** lr=2, mean of 2 runs with val/loss 0.35 (`lr=2`)\n\n| \\# |" in note


def test_the_sweeps_run_has_mean_spread_and_best(store: Any) -> None:
    sweep = Sweep(store, ["lr", "seed"], LOSS)
    for number, (lr, seed, loss) in enumerate(LUCKY):
        sweep.child(number, {"lr": lr, "seed": seed}, {"val/loss": [loss, 5.0], "test/accuracy": 1 - loss})
    sweep.child(4, {"lr": 3, "seed": 0}, {"val/loss": 0.0, "test/accuracy": 1.0}, "FAILED")
    sweep.summarise(final=False)
    found = sweep.client.get_run(sweep.run_id).data.metrics
    assert found == {
        "val/loss_mean": pytest.approx(0.425), "val/loss_std": pytest.approx(0.3403, abs=1e-4), "val/loss_best": 0.35,
        "test/accuracy_mean": pytest.approx(0.575), "test/accuracy_std": pytest.approx(0.3403, abs=1e-4),
        "test/accuracy_best": pytest.approx(0.65),
    }  # fmt: skip


def folded(values: list[tuple[int, int, float]], name: str = "test/accuracy", count: int = 2) -> list[TrialResult]:
    """Trials of (fold, samples, value)."""
    return [
        replace(made_up(i, {"data.fold": k}, **{"val__loss": 1.0}), metrics={name: v}, fold=Fold(k, count, "test", n))
        for i, (k, n, v) in enumerate(values)
    ]


def test_folds_are_pooled_by_their_samples() -> None:
    found = metrics_of_children(folded([(0, 30, 0.5), (1, 10, 0.9)]), LOSS)
    assert (found["test/accuracy_pooled"], found["test/accuracy_mean"]) == (pytest.approx(24 / 40), pytest.approx(0.7))
    rmse = metrics_of_children(folded([(0, 30, 2.0), (1, 10, 4.0)], "test/rmse"), LOSS)
    assert rmse["test/rmse_pooled"] == pytest.approx((280 / 40) ** 0.5)


@pytest.mark.parametrize(
    "tried",
    [
        folded([(0, 30, 0.5), (1, 10, 0.9)], "test/f1"), folded([(0, 30, 0.5), (1, 10, 0.9)], "val/accuracy"),
        folded([(0, 30, 0.5), (1, 10, 0.9)], count=3), folded([(0, 30, 0.5)]), folded([(0, 9, 0.5), (0, 9, 0.5), (1, 9, 0.9)]),
        [replace(one, fold=None) for one in folded([(0, 30, 0.5), (1, 10, 0.9)])],
    ],
)  # fmt: skip
def test_what_does_not_follow_from_the_folds_is_not_pooled(tried: list[TrialResult]) -> None:
    assert not [name for name in metrics_of_children(tried, LOSS) if name.endswith("_pooled")]


@pytest.mark.slow
def test_a_cross_validation_has_the_score_over_all_samples(sweep: Any, store: Any) -> None:
    done = sweep("data=tabular", "model=mlp", "data.folds=3", "data.fold=0,1,2", "trainer.max_epochs=1")
    assert done.code == 0, done.said
    runs = [store.client.get_run(child.run_id) for child in done.children]
    counts = [int(run.data.tags["data.test_samples"]) for run in runs]
    correct = [run.data.metrics["test/accuracy"] * n for run, n in zip(runs, counts, strict=True)]
    assert correct == pytest.approx([round(number) for number in correct], abs=1e-3)
    pooled = done.parent.data.metrics["test/accuracy_pooled"]
    assert pooled == pytest.approx(sum(map(round, correct)) / sum(counts), abs=1e-6)
    assert "mean of 3 runs" in done.said


def test_the_row_of_the_sweep_has_what_its_trials_share(store: Any) -> None:
    sweep = Sweep(store, ["optimizer", "seed"], LOSS)
    for number, (optimizer, seed) in enumerate([("sgd", 0), ("adamw", 1)]):
        run_id = sweep.child(number, {"optimizer": optimizer, "seed": seed}, {"val/loss": 1.0})
        for key, value in {"data": "digits", "optimizer": optimizer, "seed": "0", "data.root": "/x"}.items():
            sweep.client.log_param(run_id, key, value)
    for _ in range(2):  # a resumed sweep writes its summary again
        sweep.summarise(final=False)
        assert sweep.client.get_run(sweep.run_id).data.params == {"data": "digits"}


def test_float32_becomes_the_decimal_that_was_meant(store: Any) -> None:
    from lightning_modules.report.numbers import shortest_decimal

    assert shortest_decimal(0.8999999761581421) == 0.9
    assert [shortest_decimal(value) for value in (1 / 3, 1e300, math.inf, 5.0, None)] == [
        1 / 3,
        1e300,
        math.inf,
        5.0,
        None,
    ]
    sweep = Sweep(store, ["seed"], {"val/accuracy": "maximize"})
    for seed, value in enumerate((0.8999999761581421, 0.800000011920929)):
        sweep.child(seed, {"seed": seed}, {"val/accuracy": value})
    folder = sweep.summarise({"val/accuracy": "maximize"}, final=False)
    assert sweep.client.get_run(sweep.run_id).data.metrics["val/accuracy_mean"] == pytest.approx(0.85, abs=1e-15)
    assert ",0.9,0.9," in (folder / "children.csv").read_text()
