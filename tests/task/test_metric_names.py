"""Names of classes in the names of metrics: as MLflow takes them, and each class under one of its own."""

import pytest
from mlflow.utils.validation import _validate_metric, _validate_metric_name

from lightning_modules.task.metrics import metric_suffixes


@pytest.mark.parametrize(
    "names",
    [
        ["C++", "C##", "C"], [".", ",", ":", "..", "``", "NN"], ["", " ", "...", "/", "a/b", "a//b", "../x"], ["a\nb", "a\tb"],
        ["C++", "C##", "C__-0", "C__"], ["x" * 300, "x" * 299 + "y"], ["😀", "😡", "猫"], ["-1", "1", "1.0", "+1"],
    ],
)  # fmt: skip
def test_every_class_has_a_metric_of_its_own_that_mlflow_takes(names: list[str]) -> None:
    found = metric_suffixes(names)
    assert len(set(found)) == len(names)
    for suffix in found:
        _validate_metric_name(f"compressed/test/class_accuracy/{suffix}")
        _validate_metric(f"compressed/test/class_accuracy/{suffix}", 1.0, 0, 0)


def test_names_that_are_told_apart_stay_as_they_are() -> None:
    assert metric_suffixes(["cat", "T-shirt/top", "naïve café", "a.b"]) == ["cat", "T-shirt_top", "naïve café", "a.b"]
    assert metric_suffixes(["C++", "C", "C##", "."]) == ["C__-0", "C", "C__-2", "_"]
