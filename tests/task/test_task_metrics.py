"""What is measured equals scikit-learn's numbers on all predictions, made sample by sample."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from pytorch_lightning import Callback, Trainer
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import classification

from lightning_modules.config.errors import UserError
from lightning_modules.task.classification import Classification
from lightning_modules.task.metrics import classification_metrics, regression_metrics
from lightning_modules.task.regression import Regression

BINARY = ("data=tabular", "data.name=breast_cancer", "model=linear", "task=binary", "data.eval_batch_size=7")


def close(value: float, expected: Any) -> bool:
    return math.isclose(value, float(expected), rel_tol=1e-5, abs_tol=1e-6)


def test_multiclass_metrics_are_those_of_all_predictions(fit: Callable[..., Any]) -> None:
    run = fit("data=digits", "model=linear", "data.eval_batch_size=50", "task.top_k=3")
    logits, y = run.predict("test")
    best, p, seen = logits.argmax(-1), logits.softmax(-1).double(), run.metrics
    p /= p.sum(-1, keepdim=True)
    assert close(seen["test/loss"], nn.functional.cross_entropy(logits, y))
    assert close(seen["test/accuracy"], sk.accuracy_score(y, best))
    assert close(seen["test/top3_accuracy"], sk.top_k_accuracy_score(y, p, k=3))
    assert close(seen["test/precision"], sk.precision_score(y, best, average="macro", zero_division=0))
    assert close(seen["test/recall"], sk.recall_score(y, best, average="macro"))
    assert close(seen["test/f1"], sk.f1_score(y, best, average="macro"))
    assert close(seen["test/auroc"], sk.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    for digit, recall in enumerate(sk.recall_score(y, best, average=None)):
        assert close(seen[f"test/class_accuracy/{digit}"], recall)


def test_validation_measures_the_validation_part(fit: Callable[..., Any]) -> None:
    run = fit("data=digits", "model=linear", "data.eval_batch_size=50")
    logits, y = run.predict("val")
    assert close(run.metrics["val/accuracy"], sk.accuracy_score(y, logits.argmax(-1)))
    assert close(run.metrics["val/loss"], nn.functional.cross_entropy(logits, y))


def test_binary_metrics_are_those_of_all_predictions(fit: Callable[..., Any]) -> None:
    run = fit(*BINARY)
    logits, y = run.predict("test")
    p, seen = logits.squeeze(-1).sigmoid(), run.metrics
    assert close(seen["test/loss"], sk.log_loss(y, p.double()))
    for name, score in {"accuracy": sk.accuracy_score, "precision": sk.precision_score, "recall": sk.recall_score,
                        "f1": sk.f1_score}.items():  # fmt: skip
        assert close(seen[f"test/{name}"], score(y, p > 0.5)), name
    assert close(seen["test/auroc"], sk.roc_auc_score(y, p))


def test_regression_metrics_are_those_of_all_predictions(fit: Callable[..., Any]) -> None:
    run = fit(
        "data=tabular",
        "data.name=diabetes",
        "data.per_class=null",
        "model=linear",
        "task=regression",
        "optimizer.lr=1",
    )
    values, y = run.predict("test")
    values, seen = values.squeeze(-1), run.metrics
    assert close(seen["test/loss"], sk.mean_squared_error(y, values))
    assert close(seen["test/mse"], sk.mean_squared_error(y, values))
    assert close(seen["test/rmse"], sk.mean_squared_error(y, values) ** 0.5)
    assert close(seen["test/mae"], sk.mean_absolute_error(y, values))
    assert close(seen["test/r2"], sk.r2_score(y, values))


def test_multilabel_metrics_are_those_of_all_predictions() -> None:
    """Three questions about a digit: is it even, above four, a multiple of three? Through a bare Trainer."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.data).float()[:300] / 16
    y = torch.from_numpy(np.stack([digits.target % 2 == 0, digits.target > 4, digits.target % 3 == 0], -1)).float()[
        :300
    ]
    batches: Any = [{"x": x[i], "y": y[i], "index": i} for i in torch.arange(300).split(64)]
    loader = DataLoader(batches, batch_size=None)
    chosen: Any = {"val": ["accuracy", "f1"], "test": None}
    task = Classification(
        nn.Linear(64, 3), nn.BCEWithLogitsLoss(), num_outputs=3, kind="multilabel", metrics=chosen,
        class_names=["even", "above 4", "threes"], optimizer=torch.optim.Adam,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    fitted = dict(trainer.callback_metrics)
    assert fitted.keys() == {"train/accuracy", "val/loss", "val/accuracy", "val/f1"} == task.metric_names()
    trainer.test(task, loader, verbose=False)
    p = task.eval()(x).sigmoid().detach()
    seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert close(seen["test/accuracy"], ((p > 0.5) == (y > 0.5)).double().mean())
    assert close(seen["test/f1"], sk.f1_score(y, p > 0.5, average="macro"))
    assert close(float(fitted["val/f1"]), seen["test/f1"])
    assert close(seen["test/auroc"], sk.roc_auc_score(y, p, average="macro"))
    assert close(seen["test/class_accuracy/above 4"], ((p > 0.5) == (y > 0.5))[:, 1].double().mean())


def test_train_accuracy_is_that_of_the_predictions_made_while_training(fit: Callable[..., Any]) -> None:
    run = fit("data=digits", "model=linear", "data.batch_size=32", "optimizer.lr=0", "trainer.max_epochs=1")
    logits, y = run.predict("train")
    assert close(run.metrics["train/accuracy"], (logits.argmax(-1) == y).double().mean())


CASES = {
    "multiclass": ("data=digits", "model=linear"),
    "per class": ("data=tabular", "model=linear", "task.metrics.val=[accuracy,class_accuracy,auroc,top_k]", "task.top_k=2"),
    "binary": BINARY,
    "regression": ("data=tabular", "data.name=diabetes", "data.per_class=null", "model=linear", "task=regression"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_names_known_before_training_are_those_that_training_gives(
    build_run: Callable[..., Any], case: str
) -> None:
    run = build_run(*CASES[case])
    known = run.task.metric_names()
    run.trainer.fit(run.task, datamodule=run.data)
    assert known == run.metrics.keys()


def test_targets_of_several_columns_are_measured_together() -> None:
    task = Regression(nn.Linear(2, 2), nn.MSELoss(), num_outputs=2)
    outputs, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [2.0, 4.0]])
    metrics = task.build_metrics("test")
    values = metrics(task.scores(outputs), task.metric_target(y))
    assert close(values["mae"], (2 + 1) / 4)
    assert close(values["mse"], (4 + 1) / 4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.metrics.val=[acuracy]", "did you mean 'accuracy'"),
        ("task.metrics.val=accuracy", r"task.metrics.val=accuracy: expected a list of names"),
        ("+task.metrics.train=[accuracy]", "task.metrics.train"),
    ],
)
def test_a_wrong_metric_is_named(build_run: Callable[..., Any], override: str, words: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=words):  # `answer` unwraps Hydra's
        build_run("data=digits", "model=linear", override).task.metric_names()


SIZES = [("multiclass", 4), ("multilabel", 4), ("binary", 1)]
NAMES = ("precision", "recall", "f1", "auroc")


def made(kind: str, size: int, samples: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Random probabilities and targets in which every class has samples."""
    draws = torch.Generator().manual_seed(3)
    if kind == "multiclass":
        return torch.randn(samples, size, generator=draws).softmax(-1), torch.arange(samples) % size
    shape = (samples,) if kind == "binary" else (samples, size)
    return torch.rand(shape, generator=draws), torch.randint(2, shape, generator=draws)


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_where_every_class_has_samples_the_averages_are_those_of_torchmetrics_bit_for_bit(kind: str, size: int) -> None:
    scores, y = made(kind, size)
    prefix, shape = kind.capitalize(), {"multiclass": {"num_classes": size}, "multilabel": {"num_labels": size}}
    macro = {**shape[kind], "average": "macro"} if kind in shape else {}
    classes = dict(zip(NAMES, ("Precision", "Recall", "F1Score", "AUROC"), strict=True))
    ours = classification_metrics(kind, size, NAMES, 5)
    ours.update(scores, y)
    for name, value in ours.compute().items():
        theirs = getattr(classification, f"{prefix}{classes[name]}")(**macro)
        assert torch.equal(value, theirs(scores, y)), name


def test_a_class_without_samples_is_left_out_of_averages() -> None:
    scores, y = made("multiclass", 4)
    kept = y != 2
    scores, y = scores[kept], y[kept]
    ours = classification_metrics("multiclass", 4, (*NAMES, "class_accuracy"), 5)
    ours.update(scores, y)
    found, best, there = ours.compute(), scores.argmax(-1), [0, 1, 3]
    assert (best == 2).any(), "false positives of the class are there"
    keywords: dict[str, Any] = {"labels": there, "average": "macro", "zero_division": 0}
    assert close(found["precision"], sk.precision_score(y, best, **keywords))
    assert close(found["recall"], sk.recall_score(y, best, **keywords))
    assert close(found["f1"], sk.f1_score(y, best, **keywords))
    assert close(found["auroc"], np.mean([sk.roc_auc_score(y == c, scores[:, c]) for c in there]))
    assert found["class_accuracy"].isnan().tolist() == [False, False, True, False]
    ours.reset()
    ours.update(*made("multiclass", 4))
    assert not ours.compute()["class_accuracy"].isnan().any(), "nothing is left of the first part"


def test_labels_without_positives_are_left_out_and_auroc_needs_negatives_too() -> None:
    scores, y = made("multilabel", 4)
    y[:, 1], y[:, 3] = 0, 1
    ours = classification_metrics("multilabel", 4, NAMES, 5)
    ours.update(scores, y)
    found, hard = ours.compute(), (scores > 0.5).int()
    assert close(found["recall"], sk.recall_score(y[:, [0, 2, 3]], hard[:, [0, 2, 3]], average="macro"))
    assert close(found["auroc"], sk.roc_auc_score(y[:, [0, 2]], scores[:, [0, 2]], average="macro"))


@pytest.mark.parametrize(("kind", "size"), SIZES[::2])
def test_auroc_of_one_class_is_not_defined(kind: str, size: int) -> None:
    scores, y = made(kind, size)
    ours = classification_metrics(kind, size, NAMES, 5)
    ours.update(scores, torch.zeros_like(y))
    found = ours.compute()
    assert found["auroc"].isnan()
    assert found["recall"].isnan() == (kind == "binary"), "the class that all samples have is an average of one"


def test_r2_is_defined_from_two_samples_on() -> None:
    for samples, defined in ((1, False), (2, True)):
        metrics = regression_metrics(1, ["r2", "mse"])
        metrics.update(torch.arange(samples).float(), torch.arange(samples).float() + 1)
        assert metrics.compute()["r2"].isnan() != defined and metrics.compute()["mse"] == 1


def test_what_is_not_defined_is_named_once_and_not_logged(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set whose validation and test parts lack a class; the metrics are monitored all the same."""
    names = "task.metrics={val: [f1, class_accuracy], test: [auroc, class_accuracy]}"
    run = fit("data=digits", "model=linear", names, callbacks=(_WithoutClass(9),))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{part}: no sample has class 9; averages over classes leave it out" for part in ("val", "test")]
    logged = {name for _, name, _ in run.points}
    assert {"val/f1", "test/auroc", "test/class_accuracy/8"} <= logged
    assert not {"val/class_accuracy/9", "test/class_accuracy/9"} & logged
    assert math.isnan(run.metrics["val/class_accuracy/9"])


def test_the_r2_of_a_single_sample_is_named_and_not_logged(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny.csv").write_text("x,y\n" + "".join(f"{i},{i * 1.5 + i % 3}\n" for i in range(12)))
    run = fit("data=tabular", "data.name=null", f"data.path={tmp_path / 'tiny.csv'}", "data.target=y", "task=regression",
              "model=linear", "callbacks=early_stopping", "callbacks.best.monitor=val/r2",
              small=False)  # fmt: skip
    assert len(run.data.splits["val"]) == 1 and math.isnan(run.metrics["val/r2"])
    assert "val/r2 is not defined on 1 sample and is not logged" in capsys.readouterr().err.splitlines()
    logged = {name for _, name, _ in run.points}
    assert {"val/mse", "test/r2"} <= logged and "val/r2" not in logged


class _WithoutClass(Callback):
    def __init__(self, label: int) -> None:
        self.label = label

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        y = data.arrays.test[1] if data.arrays.test else data.arrays.y
        data.splits["test"] = data.splits["test"][y[data.splits["test"]] != self.label]
        data.splits["val"] = data.splits["val"][data.arrays.y[data.splits["val"]] != self.label]
