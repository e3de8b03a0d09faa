import io
import math

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_modules.report.figures import confusion_matrix, learning_curves, predicted_vs_true, roc_curves


def colours_of(figure: Figure) -> int:
    """Render the figure as a PNG and return how many colours it has."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    file.seek(0)
    pixels = (image.imread(file)[..., :3] * 255).astype(np.int64)
    assert min(pixels.shape[:2]) > 150
    return len(np.unique(pixels @ [65536, 256, 1]))


def texts(figure: Figure) -> list[str]:
    return [part.get_text() for part in figure.findobj(Text) if isinstance(part, Text)]


def test_a_confusion_matrix_prints_its_counts_true_classes_in_rows() -> None:
    figure = confusion_matrix(torch.tensor([[90, 10], [0, 1234]]), ["cat", "dog"])
    placed = {(text.get_position()): text.get_text() for text in figure.axes[0].texts}
    assert placed == {(0, 0): "90", (1, 0): "10", (0, 1): "0", (1, 1): "1,234"}
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None and shown.tolist() == [[0.9, 0.1], [0.0, 1.0]]
    assert "Confusion matrix: 99.3% of 1,334 right" in texts(figure)
    assert colours_of(figure) > 20


def test_a_confusion_matrix_of_a_hundred_classes_has_names_but_no_counts() -> None:
    figure = confusion_matrix(torch.eye(100) * 5, [f"class {i}" for i in range(100)])
    assert len(figure.axes[0].texts) == 0
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"class {i}" for i in range(100)]
    assert colours_of(figure) > 20


def test_a_class_that_never_occurs_leaves_its_row_empty() -> None:
    shown = confusion_matrix(torch.tensor([[3, 1], [0, 0]]), ["a", "b"]).axes[0].images[0].get_array()
    assert shown is not None and shown.tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_learning_curves_pair_the_splits_of_a_metric() -> None:
    history = {
        "train/loss": [(step, 10.0 * 0.5**step) for step in range(12)],
        "val/loss": [(4, 0.9), (2, math.nan), (0, 9.0)],
        "test/loss": [(12, 0.25)],
        "val/accuracy": [(0, 0.1), (4, 0.8)],
        "empty": [],
        "lr": [(0, 0.1), (4, 0.01)],
    }
    figure = learning_curves(history)
    loss, accuracy, lr = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy", "lr"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert [line.get_label() for line in loss.lines] == ["train", "val", "test 0.25"]
    assert np.asarray(loss.lines[1].get_xdata()).tolist() == [0, 2, 4]
    assert [line.get_linestyle() for line in loss.lines] == ["-", "-", "--"]
    assert np.asarray(accuracy.lines[0].get_ydata()).tolist() == [0.1, 0.8] and lr.get_legend() is None
    assert colours_of(figure) > 20


def test_a_history_of_nothing_is_an_empty_picture() -> None:
    assert learning_curves({}).axes == []


def test_roc_curves_carry_the_area_that_counting_pairs_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (60,), generator=generator)
    scores = torch.randn(60, 3, generator=generator) + torch.eye(3)[targets]
    figure = roc_curves(scores, targets, ["a", "b", "c"])
    right, wrong = scores[targets == 1, 1], scores[targets != 1, 1]
    area = (right[:, None] > wrong[None, :]).float().mean()  # Mann-Whitney: the share of pairs in order
    assert f"b {area:.3f}" in texts(figure)
    assert len(figure.axes[0].lines) == 4
    assert colours_of(figure) > 20


@pytest.mark.parametrize(
    "scores", [torch.tensor([0.1, 0.9, 0.4, 0.8]), torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])]
)
def test_two_classes_have_one_roc_curve(scores: torch.Tensor) -> None:
    figure = roc_curves(scores, torch.tensor([0, 1, 0, 1]), ["no", "yes"])
    assert "yes 1.000" in texts(figure) and len(figure.axes[0].lines) == 2


def test_a_class_without_targets_has_no_roc_curve() -> None:
    figure = roc_curves(torch.eye(3), torch.tensor([0, 1, 1]), ["a", "b", "never"])
    assert not any("never" in text for text in texts(figure))


def test_a_regression_shows_r2_and_rmse() -> None:
    target = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    figure = predicted_vs_true(target + torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), target)
    assert figure.axes[0].get_title(loc="left") == "R² 0.200, RMSE 1, n 4"
    assert colours_of(figure) > 20
