"""A comparison as a plot of the seeds of each group, and as a curve over a numeric setting."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_modules.comparison.result import Comparison, Row
from lightning_modules.report.figures import COLOURS, blank_figure, draw_seeds, style_axes

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
        colour = COLOURS[1] if row.is_baseline else COLOURS[0]
        draw_seeds(axes, place, row.points, row.mean, row.interval, colour)
        if row.is_baseline and row.mean is not None:
            axes.axvline(row.mean, color=colour, linestyle="--", linewidth=1, alpha=0.7, zorder=1)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    seen = [value for row in rows for value in row.points]
    if seen and min(seen) > 0 and max(seen) / min(seen) > 100:  # one diverged group would squeeze all others
        axes.set_xscale("log")
    axes.margins(x=0.04)
    return figure


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
