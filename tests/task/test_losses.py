"""Losses, penalties and weights, worked out by hand on real samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.task.classification import Classification

IRIS = ("data=tabular", "model=linear", "data.per_class=null")


def first_batch(run: Any) -> dict[str, torch.Tensor]:
    return next(iter(run.data.train_dataloader()))


def test_smoothed_labels_share_their_mass_among_the_classes(build_run: Callable[..., Any]) -> None:
    run = build_run(*IRIS, "task.label_smoothing=0.3")
    batch = first_batch(run)
    logits = run.task(batch["x"])
    target = F.one_hot(batch["y"], 3) * 0.7 + 0.3 / 3
    assert torch.allclose(run.task.training_loss(batch, 0), -(target * logits.log_softmax(-1)).sum(-1).mean())


def test_smoothed_binary_labels_move_towards_a_half(build_run: Callable[..., Any]) -> None:
    run = build_run(
        "data=tabular", "data.name=breast_cancer", "model=linear", "task=binary", "task.label_smoothing=0.2"
    )
    batch = first_batch(run)
    logit = run.task(batch["x"]).squeeze(-1)
    expected = F.binary_cross_entropy_with_logits(logit, batch["y"] * 0.8 + 0.1)
    assert torch.allclose(run.task.training_loss(batch, 0), expected)


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_evaluation_measures_the_loss_against_the_labels_as_they_are(build_run: Callable[..., Any], kind: str) -> None:
    run = build_run(
        "data=tabular", "model=linear", *(["task=binary", "data.name=breast_cancer"] if kind == "binary" else []),
        "task.label_smoothing=0.2",
    )  # fmt: skip
    batch, task = first_batch(run), run.task.eval()
    outputs = task(batch["x"])
    plain = F.cross_entropy(outputs, batch["y"]) if kind == "multiclass" else F.binary_cross_entropy_with_logits(
        outputs.squeeze(-1), batch["y"].float()
    )  # fmt: skip
    assert torch.allclose(task.evaluation_loss(outputs, batch["y"]), plain)
    assert not torch.allclose(task.train().training_loss(batch, 0), plain)


def test_penalties_count_weights_and_no_biases(build_run: Callable[..., Any]) -> None:
    plain, penalised = build_run(*IRIS), build_run(*IRIS, "task.l1=0.1", "task.l2=0.4")
    batch = first_batch(plain)
    (weight,) = (p for name, p in penalised.task.model.named_parameters() if name.endswith("weight"))
    penalty = 0.1 * weight.abs().sum() + 0.5 * 0.4 * weight.square().sum()
    assert torch.allclose(penalised.task.training_loss(batch, 0), plain.task.training_loss(batch, 0) + penalty)


def test_the_gradient_of_the_l2_penalty_is_that_of_weight_decay(build_run: Callable[..., Any]) -> None:
    run = build_run(*IRIS, "task.l2=0.4")
    batch = first_batch(run)
    (weight,) = (p for name, p in run.task.model.named_parameters() if name.endswith("weight"))
    (with_penalty,) = torch.autograd.grad(run.task.training_loss(batch, 0), weight)
    (without,) = torch.autograd.grad(F.cross_entropy(run.task(batch["x"]), batch["y"]), weight)
    assert torch.allclose(with_penalty, without + 0.4 * weight, atol=1e-6)


def test_balanced_weights_are_inverse_to_the_class_counts() -> None:
    counts = torch.tensor([30, 10, 20])
    task = Classification(
        nn.Linear(2, 3), nn.CrossEntropyLoss(), num_outputs=3, class_weights="balanced", class_counts=counts
    )
    assert torch.allclose(task.loss.weight, torch.tensor([60 / 90, 60 / 30, 60 / 60]))
    logits, y = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]), torch.tensor([0, 2])
    each = -logits.log_softmax(-1)[[0, 1], y]
    expected = (each * torch.tensor([60 / 90, 1])).sum() / (60 / 90 + 1)
    assert torch.allclose(task.loss(logits, y), expected)


def test_weights_given_as_a_list_are_those_of_the_loss(build_run: Callable[..., Any]) -> None:
    run = build_run(*IRIS, "task.class_weights=[1,2,0.5]")
    assert run.task.loss.weight.tolist() == [1, 2, 0.5]
    binary = build_run(
        "data=tabular", "data.name=breast_cancer", "model=linear", "task=binary", "task.class_weights=[3]"
    )
    assert binary.task.loss.pos_weight.tolist() == [3]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.label_smoothing=1"], r"Classification.label_smoothing=1: expected a value in \[0, 1\)"),
        (["task.class_weights=ballanced"], "task.class_weights=ballanced: expected 'balanced'"),
        (["task.class_weights=[1,2]"], "task.class_weights: got 2 numbers for 3 outputs"),
        (
            ["task.loss._target_=torch.nn.MultiMarginLoss", "task.label_smoothing=0.1"],
            "MultiMarginLoss does not support label smoothing",
        ),
        (
            ["task.loss._target_=torch.nn.MultiLabelMarginLoss", "task.class_weights=balanced"],
            "has no argument weight",
        ),
        (["task=regression"], "the targets of iris are classes; try task=classification"),
        (["task=binary"], "iris has 3 classes"),
    ],
)
def test_a_misuse_is_answered_with_the_key(build_run: Callable[..., Any], overrides: list[str], words: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=words):  # `answer` unwraps Hydra's
        build_run(*IRIS, *overrides)


def test_a_dropout_layer_draws_by_seed_and_epoch_alone(build_run: Callable[..., Any]) -> None:
    from lightning_modules.task.rng import derive_seed, seed_epoch

    drawn = []
    for seed, epoch in ((0, 1), (1, 1), (0, 1)):
        seed_epoch(seed, epoch, 0, torch.device("cpu"))
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert (
        len({derive_seed(seed, step, rank) for seed in range(20) for step in range(50) for rank in range(4)})
        == 20 * 50 * 4
    )
