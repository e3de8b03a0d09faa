"""Figures of a run, as matplotlib objects without pyplot: no global state, nothing to close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from torch import Tensor

# Okabe & Ito (2008): eight colours for all kinds of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
INK, GRID = "#333333", "#DDDDDD"
SPLIT_COLOURS = {"train": COLOURS[0], "val": COLOURS[1], "test": COLOURS[2]}
MAX_PRINTED_CLASSES = 20  # the confusion matrix prints its counts up to this number of classes
MAX_LABELLED_CURVES = 10  # each class has a labelled ROC curve up to this number

MetricHistory = Mapping[str, Sequence[tuple[int, float]]]


def blank_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, title: str, xlabel: str, ylabel: str, grid: bool = True) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    if grid:
        axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom") and grid)
        spine.set_color(GRID)


def seed_offsets(count: int) -> np.ndarray:
    """Offsets [N] of a row's points, alternately above and below it, so that equal values stay visible."""
    turn = np.arange(count)
    return np.where(turn % 2, 1, -1) * (0.16 + 0.12 * np.abs(np.sin(2.4 * turn)))


def draw_seeds(
    axes: Axes, place: int, points: Sequence[float], mean: float | None, bar: tuple[float, float] | None, colour: str
) -> None:
    """Draw a row at height `place`: the seeds as pale points, their mean and its interval `bar`."""
    heights = place + seed_offsets(len(points)) * (len(points) > 1)
    alpha = max(0.15, min(0.4, 8 / max(len(points), 1)))
    axes.scatter(points, heights, s=14, color=colour, alpha=alpha, linewidths=0, zorder=3)
    if bar is not None:
        axes.plot(bar, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=4)
    if mean is not None:
        axes.plot([mean], [place], "o", color=colour, markersize=5.5, markeredgecolor="white", zorder=5)


def confusion_matrix(matrix: Tensor, class_names: Sequence[str]) -> Figure:
    """Plot the counts `matrix` [K, K] (rows: true classes), coloured by the fraction within each row."""
    counts = matrix.detach().cpu().numpy()
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.5 * classes + 2), 14.0)
    figure = blank_figure(side + 1, side)
    axes = figure.add_subplot()
    # On a linear scale, the few mistakes of many classes would all look white.
    norm = PowerNorm(1.0 if classes <= MAX_PRINTED_CLASSES else 0.5, vmin=0, vmax=1)
    image = axes.imshow(share, cmap="Blues", norm=norm)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    title = f"Confusion matrix: {accuracy:.1%} of {counts.sum():,.0f} right"
    style_axes(axes, title, "predicted", "true", grid=False)
    size = 9 if classes <= 12 else 7 if classes <= 40 else 4.5
    longest = max((len(str(name)) for name in class_names), default=0)
    every = -(-classes // 100)  # more than 100 names would overlap
    places, names = range(0, classes, every), list(class_names)[::every]
    axes.set_xticks(places, names, fontsize=size)
    if classes > MAX_PRINTED_CLASSES:
        axes.tick_params(axis="x", rotation=90)
    elif classes > 12 or longest > 3:
        axes.set_xticks(places, names, fontsize=size, rotation=45, ha="right")
    axes.set_yticks(places, names, fontsize=size)
    if classes <= MAX_PRINTED_CLASSES:
        for row, column in np.ndindex(classes, classes):
            colour = "white" if share[row, column] > 0.5 else INK if counts[row, column] else "#BBBBBB"
            text = f"{counts[row, column]:,.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size - 1)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, format=lambda value, _: f"{value:.0%}")
    bar.set_label("share of the true class", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    return figure


def learning_curves(history: MetricHistory) -> Figure:
    """Plot each metric ``x`` on its own axes: train/x and val/x over the steps, test/x as a dashed line.

    A loss that spans more than two decades has a logarithmic axis. Keys without a split (``lr``) have their own axes.
    NaN and infinities are gaps.
    """
    metrics: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for key, points in history.items():
        split, slash, metric = key.partition("/")
        if points:
            metrics.setdefault(metric if slash else key, {})[split if slash else ""] = points
    columns = min(max(len(metrics), 1), 3)
    rows = max(-(-len(metrics) // columns), 1)
    figure = blank_figure(4.6 * columns, 3.2 * rows)
    for number, (metric, curves) in enumerate(metrics.items(), start=1):
        _draw_curves(figure.add_subplot(rows, columns, number), metric, curves)
    return figure


def _draw_curves(axes: Axes, metric: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    style_axes(axes, metric, "step", "")
    spare = iter(colour for colour in COLOURS if colour not in SPLIT_COLOURS.values())
    seen: list[float] = []
    for split, points in curves.items():
        steps, values = (np.asarray(part, dtype=float) for part in zip(*sorted(points), strict=True))
        values = np.where(np.isfinite(values), values, np.nan)
        seen.extend(values[np.isfinite(values)])
        colour = SPLIT_COLOURS.get(split) or next(spare, INK)
        if split == "test":
            label = f"test {values[-1]:.4g}"
            axes.axhline(float(values[-1]), color=colour, linestyle="--", linewidth=1.5, label=label)
            continue
        marker = "o" if len(steps) < 30 else None  # a single point would be invisible
        axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3, label=split or None)
    if "loss" in metric and seen and min(seen) > 0 and max(seen) / min(seen) > 100:
        axes.set_yscale("log")
    if any(curves):
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def roc_curves(scores: Tensor, targets: Tensor, class_names: Sequence[str]) -> Figure:
    """Plot each class against the rest, with the area under its curve.

    Args:
        scores: [N, K] logits or probabilities; [N] for two classes, those of the second.
        targets: [N] class indices.
        class_names: K names. Classes that `targets` lacks, or consists of, have no curve.
    """
    from sklearn.metrics import auc, roc_curve

    truth, likely = targets.detach().cpu().numpy(), scores.detach().float().cpu().numpy()
    if likely.ndim == 1:
        likely = np.stack([-likely, likely], axis=1)
    found = [k for k in range(likely.shape[1]) if 0 < (truth == k).sum() < len(truth)]
    shown = found[1:] if likely.shape[1] == 2 else found  # the curves of two classes mirror each other
    curves = {k: roc_curve(truth == k, likely[:, k])[:2] for k in shown}
    areas = {k: float(auc(*curve)) for k, curve in curves.items()}
    figure = blank_figure(5.6, 5)
    axes = figure.add_subplot(aspect="equal")
    mean = f": mean area {np.mean(list(areas.values())):.3f}" if areas else ""
    style_axes(axes, f"ROC, one class against the rest{mean}", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    few = len(curves) <= MAX_LABELLED_CURVES
    for number, (k, (false_rate, true_rate)) in enumerate(curves.items()):
        colour, dash = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--"
        style = {"color": colour, "linestyle": dash} if few else {"color": COLOURS[0], "alpha": 0.25}
        label = f"{class_names[k]} {areas[k]:.3f}" if few else None
        axes.plot(false_rate, true_rate, linewidth=1.6 if few else 1, label=label, **style)
    if few and curves:
        axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)
    return figure


def predicted_vs_true(predicted: Tensor, target: Tensor) -> Figure:
    """Plot a regression's predictions over the true values, both [N] or flattened, with R² and RMSE."""
    guess, truth = (part.detach().float().cpu().numpy().ravel() for part in (predicted, target))
    rmse = float(np.sqrt(np.mean((guess - truth) ** 2)))
    spread = float(((truth - truth.mean()) ** 2).sum())
    r2 = f"R² {1 - ((guess - truth) ** 2).sum() / spread:.3f}, " if spread else ""
    figure = blank_figure(5, 5)
    axes = figure.add_subplot(aspect="equal")
    style_axes(axes, f"{r2}RMSE {rmse:.4g}, n {len(truth):,}", "true", "predicted")
    ends = [float(min(guess.min(), truth.min())), float(max(guess.max(), truth.max()))]
    axes.plot(ends, ends, color=INK, linestyle=":", linewidth=1)
    alpha = float(np.clip(30 / np.sqrt(len(truth)), 0.08, 0.8))
    axes.scatter(truth, guess, s=14, color=COLOURS[0], alpha=alpha, linewidths=0, rasterized=True)
    return figure
