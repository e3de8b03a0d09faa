"""A comparison as a plot: the seeds of each group, their mean and its interval."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.comparison.result import Comparison, Row
from lightning_modules.report.figures import COLOURS, blank_figure, style_axes

MAX_GROUPS = 60  # groups per plot
_MAX_LABEL = 48  # characters of a label


def plot_comparison(comparison: Comparison) -> Figure:
    """Plot one row per group, the best on top: seeds as pale points, their mean and 95 % interval, the baseline's mean dashed.

    With more than 60 groups, only the best 60 and the baseline are shown; groups without a finite value never are.
    """
    finite = [row for row in comparison.rows if row.mean is not None]
    rows = finite[:MAX_GROUPS] + [row for row in finite[MAX_GROUPS:] if row.is_baseline]
    labels = _row_labels(comparison.by, rows)
    widest = max((len(label) for label in labels), default=0)
    figure = blank_figure(5.6 + 0.075 * widest, 1.5 + 0.27 * max(len(rows), 2))
    axes = figure.add_subplot()
    left_out = f" ({MAX_GROUPS} best of {len(finite)})" if len(rows) < len(finite) else ""
    style_axes(axes, f"Seeds, mean and 95 % interval{left_out}", f"{comparison.metric} ({comparison.direction})", "")
    axes.grid(visible=False, axis="y")
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _choose_scale(axes, rows)
    return figure


def _draw_row(axes: Axes, place: int, row: Row) -> None:
    colour = COLOURS[1] if row.is_baseline else COLOURS[0]
    # alternate deterministically above and below the row, so that equal values stay visible
    turn = np.arange(row.n)
    heights = place + np.where(turn % 2, 1, -1) * (0.14 + 0.13 * np.abs(np.sin(2.4 * turn))) * (row.n > 1)
    axes.scatter(row.points, heights, s=13, color=colour, alpha=max(0.15, min(0.4, 8 / row.n)), linewidths=0, zorder=2)
    assert row.mean is not None
    if row.interval:
        axes.plot(row.interval, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
    axes.plot([row.mean], [place], "o", color=colour, markersize=5.5, markeredgecolor="white", zorder=4)
    if row.is_baseline:
        axes.axvline(row.mean, color=colour, linestyle="--", linewidth=1, alpha=0.7, zorder=1)


def _choose_scale(axes: Axes, rows: Sequence[Row]) -> None:
    """Use a logarithmic axis if one diverged group would squeeze all others into a corner."""
    seen = [value for row in rows for value in row.points]
    if seen and min(seen) > 0 and max(seen) / min(seen) > 100:
        axes.set_xscale("log")
    axes.margins(x=0.04)


def _row_labels(by: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """``mlp, lr=0.1``: config groups by their option alone, settings by the last part of their key if that is unique."""
    ends = [key.rpartition(".")[2] for key in by]
    names = [
        "" if "." not in key else f"{end if ends.count(end) == 1 else key}=" for key, end in zip(by, ends, strict=True)
    ]
    full = [
        ", ".join(f"{name}{value}" for name, value in zip(names, row.values, strict=True)) or "all runs" for row in rows
    ]
    marked = [
        f"{label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + '…'}{' (baseline)' * row.is_baseline}  n={row.n}"
        for label, row in zip(full, rows, strict=True)
    ]
    return [label.replace("$", r"\$") for label in marked]
