"""A squared hinge on top of a network, worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.task.hinge import Hinge, SquaredHinge

SCORES = torch.tensor([[2.0, -3.0, 0.5], [0.5, 0.25, -0.5]])
CLASSES = torch.tensor([0, 1])
# hinges: 1 - t s = (-1, -2, 1.5) and (1.5, 0.75, 0.5), those below zero count nothing
HINGE = (1.5**2 + 1.5**2 + 0.75**2 + 0.5**2) / 6


def test_each_class_stands_against_all_others() -> None:
    assert float(SquaredHinge()(SCORES, CLASSES)) == pytest.approx(HINGE)
    assert float(SquaredHinge(C=3.0)(SCORES, CLASSES)) == pytest.approx(3 * HINGE)


@pytest.mark.parametrize(
    ("norm", "expected"), [("none", 0.0), ("mean", (1 + 4 + 9 + 16) / 4), ("half_sum", 0.5 * (1 + 4 + 9 + 16))]
)
def test_the_norm_of_the_last_layer_is_added_in_training_alone(norm: Any, expected: float) -> None:
    last = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), last)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    task = Hinge(model, SquaredHinge(), num_outputs=2, norm=norm)
    batch = {"x": torch.tensor([[0.3, -0.2], [1.0, 2.0]]), "y": CLASSES}
    plain = task.evaluation_loss(model(batch["x"]), CLASSES).detach()
    assert float(task.training_loss(batch, 0).detach() - plain) == pytest.approx(expected, abs=1e-5)


def test_by_sign_the_first_class_with_a_positive_score_is_the_answer() -> None:
    task = Hinge(nn.Linear(2, 3), SquaredHinge(), num_outputs=3, by_sign=True)
    outputs = torch.tensor([[0.1, 5.0, -1.0], [-1.0, -2.0, -0.5], [-1.0, 0.2, 9.0]])
    assert task.scores(outputs).argmax(-1).tolist() == [0, 0, 1]
    assert task.train_metric_sums(outputs, torch.tensor([0, 0, 1])).tolist() == [3]
    metrics = task.build_metrics("val")
    metrics.update(task.scores(outputs), torch.tensor([0, 0, 1]))
    assert float(metrics.compute()["accuracy"]) == 1
    plain = Hinge(nn.Linear(2, 3), SquaredHinge(), num_outputs=3)
    assert plain.scores(outputs).argmax(-1).tolist() == [1, 2, 2]


def test_a_support_vector_machine_learns_digits(fit: Callable[..., Any]) -> None:
    run = fit(
        "data=digits", "model=mlp", "task=hinge", "data.per_class=40", "trainer.max_epochs=8", "optimizer.lr=0.01"
    )
    assert run.metrics["test/accuracy"] > 0.85


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.norm=meen"], "Hinge.norm=meen: did you mean 'mean'"),
        (["task.kind=multilabel"], "task.*multi"),
        (["task.label_smoothing=0.1"], "SquaredHinge does not support label smoothing"),
    ],
)
def test_a_misuse_is_answered_with_the_key(build_run: Callable[..., Any], overrides: list[str], words: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=words):
        build_run("data=digits", "model=mlp", "task=hinge", *overrides)


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="has no linear layer"):
        Hinge(nn.Flatten(), SquaredHinge(), num_outputs=2)
