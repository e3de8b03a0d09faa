"""Balance and likely label errors."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.quality.embedding import embed
from lightning_modules.quality.label_errors import (
    Classifier,
    class_balance,
    confident_joint,
    confident_learning,
    find_label_errors,
    out_of_fold_probabilities,
)
from lightning_modules.quality.samples import collect_samples


def planted(digits: RawDataset, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Labels of digits of which 5 % are another class, and whose."""
    rng = np.random.RandomState(seed)
    wrong = rng.permutation(len(digits.y))[: round(0.05 * len(digits.y))]
    y = digits.y.clone()
    y[wrong] = (y[wrong] + torch.from_numpy(rng.randint(1, 10, len(wrong)))) % 10
    return y, wrong


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
def test_most_of_five_per_cent_label_noise_in_digits_is_found(classifier, made: Callable, digits: RawDataset) -> None:
    precision, recall = [], []
    for seed in range(3):
        y, wrong = planted(digits, seed)
        samples = collect_samples(made(digits.x, y, "image"))
        found = find_label_errors(samples, embed(samples), np.arange(len(y)), classifier)
        hits = np.isin(found.positions, wrong)
        precision.append(hits.mean())
        recall.append(hits.sum() / len(wrong))
        right = found.suggested[hits] == digits.y.numpy()[found.positions[hits]]
        assert right.mean() > 0.9
        assert (np.diff(found.margin) >= 0).all()
    assert np.mean(precision) > 0.8 and np.mean(recall) > 0.85


def test_the_confident_joint_counts_as_the_paper_does() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.6, 0.4]])
    y = np.array([0, 0, 0, 1, 1, 1])
    # mean self-confidence: 1.9/3 of class 0, 2.0/3 of class 1; the last sample reaches neither
    assert np.allclose(confident_joint(probability, y), [[2, 1], [0, 3]])
    positions, suggested, margin, _ = confident_learning(probability, y)
    assert positions.tolist() == [2] and suggested.tolist() == [1] and np.allclose(margin, [-0.6])


def test_no_sample_is_predicted_by_a_model_that_saw_one_of_its_group() -> None:
    rng = np.random.RandomState(0)
    x = np.repeat(rng.standard_normal((60, 5)), 2, axis=0)  # each sample twice
    y = np.repeat(rng.randint(0, 2, 60), 2)  # labels say nothing
    groups = np.repeat(np.arange(0, 120, 2), 2)
    alone = out_of_fold_probabilities(x, y, np.arange(120), "knn")
    together = out_of_fold_probabilities(x, y, groups, "knn")
    assert (alone.argmax(1) == y).mean() > 0.9 > 0.75 > (together.argmax(1) == y).mean()
    assert np.allclose(together.sum(1), 1)


@pytest.mark.parametrize("classifier", get_args(Classifier))
def test_every_classifier_predicts_every_sample(classifier) -> None:
    rng = np.random.RandomState(0)
    y = np.arange(60) % 3
    found = out_of_fold_probabilities(
        rng.standard_normal((60, 4)) + 3 * np.eye(4)[y], y, np.arange(60), classifier, folds=3
    )
    assert np.allclose(found.sum(1), 1) and (found.argmax(1) == y).mean() > 0.7


def test_a_class_of_fewer_samples_than_folds_is_left_out(made: Callable) -> None:
    x, y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    y[:3] = 2
    samples = collect_samples(made(x, y, val_fraction=0, test_fraction=0))
    found = find_label_errors(samples, embed(samples), np.arange(60), folds=5)
    assert found.left_out == (2,) and not np.isin(found.positions, [0, 1, 2]).any()


@pytest.mark.parametrize(
    ("y", "said"),
    [(torch.zeros(40, dtype=torch.int64), "two are required"), (torch.rand(40), "not classes")],
)
def test_one_class_or_none_is_one_message(y: torch.Tensor, said: str, made: Callable) -> None:
    samples = collect_samples(made(torch.rand(40, 3), y))
    with pytest.raises(UserError, match=said):
        find_label_errors(samples, embed(samples), np.arange(40))


def test_balance_is_counted_in_each_part(made: Callable) -> None:
    y = torch.cat([torch.zeros(75, dtype=torch.int64), torch.ones(25, dtype=torch.int64)])
    found = class_balance(collect_samples(made(torch.rand(100, 2), y)))
    assert sum(part["samples"] for part in found.values()) == 100
    assert found["test"]["counts"] == {"0": 15, "1": 5} and found["test"]["imbalance"] == 3
    assert found["test"]["entropy"] == pytest.approx(0.8113, abs=1e-4)  # bits of a coin with p = 1/4
