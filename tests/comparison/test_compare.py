import json
import statistics
from typing import Any

import pytest
from comparison_runs import Ask, Make, caveats_text, child, two_models


def test_a_sweep_is_grouped_by_what_was_swept_but_seeds_best_first(sweep: Make, ask: Ask, store: Any) -> None:
    parent = sweep(seeds=4)
    table = ask(parent)
    assert table.by == ("model", "optimizer.lr")
    assert [row.values for row in table.rows] == [
        ("convnet", "0.001"), ("convnet", "0.1"), ("mlp", "0.001"), ("mlp", "0.1"),
    ]  # fmt: skip
    best = table.rows[0]
    recorded = [store.client.get_run(run_id).data.metrics["test/accuracy"] for run_id in best.runs]
    assert sorted(best.points) == sorted(recorded)
    assert (best.n, best.mean) == (4, pytest.approx(statistics.fmean(recorded)))
    assert best.std == pytest.approx(statistics.stdev(recorded))
    assert best.interval.low < best.mean < best.interval.high
    assert table.parent_id == parent


def test_a_loss_is_sorted_the_other_way(sweep: Make, ask: Ask) -> None:
    table = ask(sweep(seeds=2), metric="test/loss")
    assert table.lower_is_better
    means = [row.mean for row in table.rows]
    assert means == sorted(means)


def test_the_objective_says_which_way_is_better_where_the_name_does_not(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["model", "seed"], **{"sweep.objectives": json.dumps({"test/strange": "minimize"})})
    for number, value in enumerate((3.0, 1.0)):
        child(add, parent, number, {"model": f"m{number}", "seed": 0}, 0, metrics={"test/strange": value})
    table = ask(parent)
    assert [row.mean for row in table.rows] == [1.0, 3.0]
    assert "no run has test/accuracy; comparing test/strange instead" in caveats_text(table)


def test_the_difference_is_paired_by_seed_and_tested_by_sign_flips(add: Make, add_parent: Make, ask: Ask) -> None:
    two_models(add, parent := add_parent(["model", "seed"]), seeds=6)
    best, baseline = ask(parent, baseline="model=mlp").rows
    assert best.values == ("convnet",)
    assert baseline.is_baseline
    assert best.difference.pairs == 6
    assert best.difference.mean == pytest.approx(0.101)
    assert best.difference.interval.low > 0.09  # the seeds' own spread, far larger, is not in it
    assert best.difference.p == best.difference.p_holm == pytest.approx(2 / 64)


def test_p_is_corrected_over_the_groups_and_never_above_one(sweep: Make, ask: Ask) -> None:
    table = ask(sweep(seeds=6), baseline="model=mlp,optimizer.lr=1e-1")
    differences = [row.difference for row in table.rows if row.difference]
    assert [d.p for d in differences] == pytest.approx([2 / 64] * 3)
    assert [d.p_holm for d in differences] == pytest.approx([6 / 64] * 3)
    assert "7 pairs are needed" in caveats_text(table)


def test_five_pairs_are_said_to_be_too_few(add: Make, add_parent: Make, ask: Ask) -> None:
    two_models(add, parent := add_parent(["model", "seed"]), seeds=5)
    table = ask(parent, baseline="model=mlp")
    assert "n is too small: with 5 pairs p cannot fall below 0.0625" in caveats_text(table)
    assert "at least 6 pairs" in caveats_text(table)


def test_a_seed_without_a_partner_is_left_out_and_named(add: Make, add_parent: Make, ask: Ask) -> None:
    two_models(add, parent := add_parent(["model", "seed"]), seeds=6)
    child(add, parent, 99, {"model": "convnet", "seed": 41}, 0.9)
    table = ask(parent, baseline="model=mlp")
    assert table.rows[0].n == 7
    assert table.rows[0].difference.pairs == 6
    assert "excluded from the difference: convnet (seed 41)" in caveats_text(table)


def test_pairs_share_the_fold_too_where_folds_differ(add: Make, ask: Ask) -> None:
    for fold in range(3):
        for seed in range(2):
            for model, gain in (("a", 0.0), ("b", 0.05)):
                params = {"model": model, "seed": seed, "data.fold": fold, "data.seed": seed}
                add(params, {"test/accuracy": 0.2 * fold + 0.01 * seed + gain})
    table = ask("touchstone", baseline="model=a")
    assert table.by == ("model",)
    assert table.rows[0].difference.pairs == 6
    assert table.rows[0].difference.interval == pytest.approx((0.05, 0.05))


def test_no_seed_in_common_gives_no_difference(add: Make, ask: Ask) -> None:
    for seed in range(3):
        add({"model": "a", "seed": seed}, {"test/accuracy": 0.5})
        add({"model": "b", "seed": seed + 10}, {"test/accuracy": 0.6})
    table = ask("touchstone", baseline="model=a")
    assert table.rows[0].difference.mean is None
    assert table.rows[0].difference.p is None
    assert "no seed in common with the baseline" in caveats_text(table)


def test_an_experiment_is_grouped_by_the_fewest_params_that_tell_its_runs_apart(add: Make, ask: Ask) -> None:
    for model, width in (("mlp", 32), ("convnet", 8)):
        for lr in (0.1, 0.01):
            for seed in range(2):
                paths = {"name": f"{model}{seed}", "data.root": f"/{model}", "sweep.job": seed, "tracking.uri": seed}
                settings = {"model": model, "model.width": width, "model._target_": f"x.{model}", "optimizer.lr": lr}
                add({**settings, "seed": seed, **paths}, {"test/accuracy": lr})
    assert ask("touchstone").by == ("model", "optimizer.lr")


def test_a_group_that_a_run_lacks_is_none(add: Make, ask: Ask) -> None:
    add({"model": "mlp", "seed": 0}, {"test/accuracy": 0.5})
    add({"model": "mlp", "seed": 0, "augmentation": "crop", "augmentation.padding": 4}, {"test/accuracy": 0.6})
    table = ask("touchstone", baseline="augmentation=none")
    assert [row.values for row in table.rows] == [("crop",), ("none",)]


def test_what_the_table_is_not_by_is_averaged_within_a_seed_and_said(sweep: Make, ask: Ask) -> None:
    table = ask(sweep(seeds=3), by=["model"])
    assert [row.n for row in table.rows] == [3, 3]
    assert "runs of the same group differ in optimizer.lr" in caveats_text(table)
    assert "in 2 groups a seed has several runs; their mean is used" in caveats_text(table)


def test_what_differs_along_with_the_groups_is_said(add: Make, ask: Ask) -> None:
    for model, lr in (("a", 0.1), ("b", 0.2)):
        add({"model": model, "model.width": lr, "optimizer.lr": lr, "seed": 0}, {"test/accuracy": 0.5})
    assert "the groups also differ in optimizer.lr" in ask("touchstone").notes


def test_a_swept_key_that_is_no_param_is_read_from_the_trial(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["+extra.depth", "seed"])
    for depth in (1, 2):
        tags = {"mlflow.parentRunId": parent, "sweep.params": json.dumps({"+extra.depth": depth, "seed": 0})}
        add({"seed": 0}, {"test/accuracy": 0.1 * depth}, **tags)
    table = ask(parent)
    assert table.by == ("extra.depth",)
    assert [row.values for row in table.rows] == [("2",), ("1",)]


def test_single_runs_are_compared_by_what_differs_and_runs_without_a_seed_stand_alone(add: Make, ask: Ask) -> None:
    runs = [add({"model": f"m{i}"}, {"test/accuracy": 0.1 * i}, name=f"run {i}") for i in range(2)]
    table = ask(runs[0][:10], "run 1", runs[1])
    assert [row.runs for row in table.rows] == [(runs[1],), (runs[0],)]
    assert table.parent_id is None
    assert "2 runs without a recorded seed" in caveats_text(table)
    assert "with fewer than 3 seeds: no interval" in caveats_text(table)


def test_runs_of_one_parent_are_logged_to_it(add: Make, add_parent: Make, ask: Ask) -> None:
    two_models(add, parent := add_parent(["model", "seed"]), seeds=1)
    lonely = add({"model": "x", "seed": 0}, {"test/accuracy": 0.3}, name="lonely")
    assert ask("touchstone").parent_id is None
    ids = [run_id for row in ask(parent).rows for run_id in row.runs]
    assert ask(*ids).parent_id == parent
    assert ask(*ids, lonely).parent_id is None


def test_equal_values_are_said_to_show_no_spread(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["seed"])
    for seed in range(3):
        child(add, parent, seed, {"seed": seed}, 0.5)
    table = ask(parent)
    assert table.by == ()
    assert table.rows[0].interval == (0.5, 0.5)
    assert "the interval has zero width" in caveats_text(table)
