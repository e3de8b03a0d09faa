"""Metrics by name beyond the default ones, against scikit-learn; per class, one value under each class's name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from lightning_modules.config.errors import UserError
from lightning_modules.config.metric_direction import higher_is_better
from lightning_modules.task.metrics import classification_metrics, regression_metrics

NAMES = ("balanced_accuracy", "mcc", "kappa", "pr_auc", "ece", "brier", "class_precision", "class_f1", "class_recall")


def measure(
    kind: str, size: int, scores: torch.Tensor, y: torch.Tensor, names: tuple[str, ...] = NAMES
) -> dict[str, Any]:
    metrics = classification_metrics(kind, size, names, 5)
    metrics.update(scores, y)
    return {name: value.numpy() for name, value in metrics.compute().items()}


def calibration_error(confidence: Any, right: Any) -> float:
    """Guo et al. 2017: over 15 bins of equal width, the share of samples times |accuracy - confidence|."""
    bins = np.minimum((np.asarray(confidence) * 15).astype(int), 14)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


@pytest.fixture(params=["multiclass", "binary"])
def case(request: pytest.FixtureRequest) -> tuple[str, int, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    y = torch.randint(4 if request.param == "multiclass" else 2, (200,), generator=draws)
    if request.param == "binary":
        return "binary", 1, (torch.rand(200, generator=draws) + 0.5 * y) / 1.5, y.int()
    logits = torch.randn(200, 4, generator=draws) + 1.5 * torch.nn.functional.one_hot(y, 4)
    return "multiclass", 4, logits.softmax(-1), y


def test_the_values_are_those_of_scikit_learn(case: tuple[str, int, torch.Tensor, torch.Tensor]) -> None:
    kind, size, scores, y = case
    found = measure(kind, size, scores, y)
    both = scores if kind == "multiclass" else torch.stack([1 - scores, scores], -1)
    best, p, y = both.argmax(-1).numpy(), both.double().numpy(), y.numpy()
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, best), abs=1e-6)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(y, best), abs=1e-6)
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(y, best), abs=1e-6)
    for name, theirs in (("precision", sk.precision_score), ("f1", sk.f1_score), ("recall", sk.recall_score)):
        assert found[f"class_{name}"] == pytest.approx(theirs(y, best, average=None), abs=1e-6)
    truth = np.eye(p.shape[1])[y]
    if kind == "multiclass":
        assert found["pr_auc"] == pytest.approx(sk.average_precision_score(truth, p, average="macro"), abs=1e-6)
        assert found["brier"] == pytest.approx(((p - truth) ** 2).sum(1).mean(), abs=1e-6)
        assert found["ece"] == pytest.approx(calibration_error(p.max(1), best == y), abs=1e-6)
    else:
        assert found["pr_auc"] == pytest.approx(sk.average_precision_score(y, p[:, 1]), abs=1e-6)
        assert found["brier"] == pytest.approx(sk.brier_score_loss(y, p[:, 1]), abs=1e-6)
        assert found["ece"] == pytest.approx(calibration_error(p[:, 1], y), abs=1e-6)


def test_a_class_without_samples_has_no_value_and_is_in_no_average() -> None:
    scores, y = torch.eye(3)[[0, 1, 2, 0]] * 0.4 + 0.2, torch.tensor([0, 1, 1, 0])
    found = measure("multiclass", 3, scores, y, ("class_f1", "class_auroc", "balanced_accuracy"))
    assert found["class_f1"].tolist()[:2] == pytest.approx([1.0, 2 / 3]) and np.isnan(found["class_f1"][2])
    assert np.isnan(found["class_auroc"][2]) and found["balanced_accuracy"] == 0.75


def test_labels_have_a_value_each() -> None:
    scores, y = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.1, 0.6]]), torch.tensor([[1, 0], [0, 1], [0, 1]])
    found = measure("multilabel", 2, scores, y, ("class_precision", "class_recall", "mcc", "pr_auc"))
    assert found["class_precision"].tolist() == [0.5, 1.0] and found["class_recall"].tolist() == [1.0, 1.0]
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(y.flatten(), (scores > 0.5).flatten()))


def test_each_class_is_logged_under_its_name_and_the_names_are_known_before(fit: Callable[..., Any]) -> None:
    words = (
        "data=tabular",
        "data.name=breast_cancer",
        "task=binary",
        "task.metrics.val=[class_f1,balanced_accuracy,brier]",
    )
    run = fit(*words, "model=linear")
    logged = {name for name in run.metrics if name.startswith("val/")}
    assert (
        logged
        == run.task.metric_names() - {"train/accuracy"}
        >= {"val/class_f1/malignant", "val/class_f1/benign", "val/brier"}
    )
    scores, y = run.predict("val")
    expected = sk.f1_score(y.flatten(), scores.flatten() > 0, average=None)
    names = ["val/class_f1/malignant", "val/class_f1/benign"]
    assert [run.metrics[name] for name in names] == pytest.approx(expected, abs=1e-6)


def test_a_metric_of_another_task_is_one_message(build_run: Callable[..., Any]) -> None:
    task = build_run("data=digits", "model=linear", "task.metrics.test=[rmse]").task
    with pytest.raises(UserError, match="unknown metric 'rmse' for a multiclass task"):
        task.build_metrics("test")
    with pytest.raises(UserError, match="'mcc' for a regression task; choose one of: mae, mse, r2, rmse"):
        regression_metrics(1, ["mcc"])


@pytest.mark.parametrize("name", ["kappa", "ece", "brier", "balanced_accuracy"])
def test_labels_have_no_metric_of_classes(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown metric '{name}' for a multilabel task; "):
        classification_metrics("multilabel", 3, [name], 5)


def test_their_direction_is_known() -> None:
    known = {name: higher_is_better(f"test/{name}/a") for name in NAMES}
    assert known == {name: name not in ("ece", "brier") for name in NAMES}
