"""Metrics computed from recorded ones."""

import math
from typing import Any

import pytest

from lightning_modules.cli import compare
from lightning_modules.config.errors import UserError
from lightning_modules.store.metric_expression import Expression

VALUES = {"test/accuracy": 0.9, "model/params": 100.0, "val/top-1": 0.5, "val/my loss": 2.0, "zero": 0.0, "min": 7.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test/accuracy / model/params", 0.9 / 100),
        ("test/accuracy * 2 - val/top-1 ** 2", 0.9 * 2 - 0.5**2),
        ("(test/accuracy + val/top-1) / 2", (0.9 + 0.5) / 2),
        ("max(test/accuracy, val/top-1) - min(0.1, val/top-1)", 0.8),
        ("log(model/params) * -1", -math.log(100)),
        ("- (test/accuracy)", -0.9),
        ("`val/my loss` / 4", 0.5),
        ("min + 1", 8.0),
        ("1e3 * zero", 0.0),
    ],
)
def test_the_value(text: str, expected: float) -> None:
    expression = Expression(text)
    assert expression(VALUES) == pytest.approx(expected)
    assert set(expression.names) <= VALUES.keys()


@pytest.mark.parametrize(
    "text", ["test/accuracy / zero", "log(zero)", "(zero - 1) ** 0.5", "model/params ** model/params ** model/params"]
)
def test_what_is_not_defined_is_not_a_number(text: str) -> None:
    assert math.isnan(Expression(text)(VALUES))


@pytest.mark.parametrize(
    "text",
    [
        "test/accuracy /", "a b", "(a", "open(a)", "a . b", "a if b", "log(a, b)", "min()", "a == b", "[a]", "lambda: a",
        "a @ b", "__import__('os')", "a and b", "", "(" * 500 + "a" + ")" * 500,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    try:
        expression = Expression(text)
    except UserError as error:
        assert "expected metrics and numbers joined by" in str(error)
    else:  # a name, which is that of no metric
        assert expression.names == [text]


def test_runs_are_compared_by_an_expression(sweep: Any, store: Any) -> None:
    parent = sweep(2)
    found = compare.main([parent, "metric=test/accuracy / val/accuracy", "better=higher", "by=model", "log=false"])
    assert found["metric"] == "test/accuracy / val/accuracy" and not found["lower_is_better"]
    runs = {run.info.run_id: run.data.metrics for run in store.search_runs(f"tags.`mlflow.parentRunId` = '{parent}'")}
    for row in found["rows"]:
        ratios = [runs[run_id]["test/accuracy"] / runs[run_id]["val/accuracy"] for run_id in row["runs"]]
        assert row["mean"] == pytest.approx(sum(ratios) / len(ratios))
    for metric, message in (
        ("test/accuracy / val/accuracy", r"direction of .* is not known; set better=lower or better=higher"),
        ("test/accuracy/val/accuracy", "a division needs spaces around it: 'test/accuracy / val/accuracy'"),
        ("test/acuracy / 2", "has the metric 'test/acuracy'; did you mean 'test/accuracy'"),
    ):
        with pytest.raises(UserError, match=message):
            compare.main([parent, f"metric={metric}", "log=false"])
