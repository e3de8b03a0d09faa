import json
import math
from typing import Any

import pytest
from comparison_runs import Ask, Make, caveats_text, child, two_models

from lightning_modules.config.errors import UserError


def test_runs_that_did_not_finish_are_left_out_and_counted(add: Make, add_parent: Make, ask: Ask, store: Any) -> None:
    two_models(add, parent := add_parent(["model", "seed"]), seeds=2)
    for number, status in enumerate(("FAILED", "FAILED", "KILLED", "RUNNING"), start=10):
        child(add, parent, number, {"model": "mlp", "seed": number}, 0.0, status=status)
    child(add, parent, 20, {"model": "mlp", "seed": 20}, 0.0, status="KILLED", **{"touchstone.ended": "PRUNED"})
    child(add, parent, 21, {"model": "mlp", "seed": 21}, 0.0, metrics={"val/loss": 1.0})
    store.client.delete_run(child(add, parent, 22, {"model": "mlp", "seed": 22}, 0.0))
    table = ask(parent)
    assert [row.n for row in table.rows] == [2, 2]
    assert "left out of 10 runs: 2 FAILED, 1 KILLED, 1 PRUNED, 1 RUNNING" in caveats_text(table)
    assert "left out: 1 finished runs without test/accuracy" in caveats_text(table)


def test_nan_and_infinity_are_named_and_left_out_of_the_mean(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["model", "seed"])
    for seed, loss in enumerate((0.5, math.nan, math.inf, 0.7)):
        child(add, parent, seed, {"model": "mlp", "seed": seed}, 0, metrics={"test/loss": loss})
    child(add, parent, 9, {"model": "broken", "seed": 0}, 0, metrics={"test/loss": -math.inf})
    table = ask(parent, metric="test/loss")
    mlp, broken = table.rows
    assert (mlp.n, mlp.not_finite, mlp.mean) == (2, 2, pytest.approx(0.6))
    assert (broken.n, broken.mean, broken.interval) == (0, None, None)
    text = caveats_text(table)
    assert "not finite in 3 runs" in text
    assert all(part in text for part in ("trial 1 ", ": nan", ": inf", ": -inf"))


def test_a_run_that_was_linked_instead_of_trained_again_counts(add: Make, add_parent: Make, ask: Ask) -> None:
    old = add({"model": "mlp", "seed": 0}, {"test/accuracy": 0.9}, experiment="older")
    linked = {"0": old, "1": "' OR 1=1 --", "2": "0" * 32}
    of_earlier_versions = {"sweep.linked": json.dumps(linked)}
    for tags in (of_earlier_versions, {f"sweep.link.{number}": run_id for number, run_id in linked.items()}):
        parent = add_parent(["model", "seed"], **tags)
        child(add, parent, 1, {"model": "mlp", "seed": 1}, 0.7)
        assert ask(parent).rows[0].points == (0.9, 0.7)


def test_a_sweep_is_compared_by_its_name_where_its_run_has_another(add: Make, add_parent: Make, ask: Ask) -> None:
    two_models(add, add_parent(["model", "seed"], **{"sweep.name": "rates"}), seeds=3)
    two_models(add, other := add_parent(["model", "seed"], **{"sweep.name": "other"}), seeds=2)
    assert [row.n for row in ask("rates").rows] == [3, 3]
    assert ask("other") == ask(other)
    add({"model": "mlp", "seed": 0}, {"test/accuracy": 0.5}, name="rates")
    with pytest.raises(UserError, match=r"'rates' .* several runs"):
        ask("rates")
