"""A comparison as a curve over a numeric setting (for example the amount of data), with a line for each arm."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.comparison.compare import Comparison, Row
from lightning_modules.comparison.table import EMPTY, decimals_from_std
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.report.figures import COLOURS, blank_figure, style_axes
from lightning_modules.report.statistics import Interval, bca_intervals

NumberFormat = Callable[[float | None], str]


@dataclass(frozen=True)
class Curve:
    """`rows` by (x, arm). `arms` are sorted by name, the reference first if there is one."""

    comparison: Comparison
    x: str
    xs: tuple[float, ...]
    arms: tuple[str, ...]
    rows: Mapping[tuple[float, str], Row]


def build_curve(comparison: Comparison, x: str, reference: str | None = None) -> Curve:
    """Arrange a table by `x`, one of its keys; the values of its other keys name the arms.

    Raises:
        UserError: `x` is not a key of the table, a value of it is not a number, or there is no arm `reference`.
    """
    if x not in comparison.by:
        raise UserError(f"along={x}: the table is grouped by {', '.join(comparison.by)}; {suggest(x, comparison.by)}")
    place = comparison.by.index(x)
    rows: dict[tuple[float, str], Row] = {}
    for row in comparison.rows:
        rest = [value for number, value in enumerate(row.values) if number != place]
        rows[_parse_number(x, row.values[place]), ", ".join(rest) or "all runs"] = row
    arms = sorted({arm for _, arm in rows}, key=lambda arm: (arm != reference, arm))
    if reference is not None and reference not in arms:
        raise UserError(f"reference={reference}: no such line; {suggest(reference, arms)}")
    return Curve(comparison, x, tuple(sorted({value for value, _ in rows})), tuple(arms), rows)


def _parse_number(x: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"along={x}: {value} is not a number") from error


def plot_curve(curve: Curve) -> Figure:
    """Plot the mean and 95 % interval of each arm, and the seeds as pale points. x is logarithmic if it spans a decade."""
    figure = blank_figure(6.4, 4.2)
    axes = figure.add_subplot()
    better = "lower" if curve.comparison.lower_is_better else "higher"
    style_axes(axes, "Mean, 95 % interval and seeds", curve.x, f"{curve.comparison.metric} ({better} is better)")
    for number, arm in enumerate(curve.arms):
        _draw_arm(axes, curve, arm, COLOURS[number % len(COLOURS)])
    if len(curve.xs) > 1 and curve.xs[0] > 0 and curve.xs[-1] / curve.xs[0] >= 10:
        axes.set_xscale("log")
    axes.set_xticks(curve.xs, [f"{value:g}" for value in curve.xs])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_arm(axes: Axes, curve: Curve, arm: str, colour: str) -> None:
    found = [(x, row) for x in curve.xs if (row := curve.rows.get((x, arm))) and row.mean is not None]
    xs, means = [x for x, _ in found], [row.mean for _, row in found]
    axes.plot(xs, np.array(means, float), "o-", color=colour, linewidth=1.8, markersize=4.5, label=arm)
    intervals = [(x, row.interval) for x, row in found if row.interval]
    low, high = ([interval[k] for _, interval in intervals] for k in (0, 1))
    axes.fill_between([x for x, _ in intervals], low, high, color=colour, alpha=0.15, linewidth=0)
    for x, row in found:
        axes.scatter([x] * row.n, row.points, s=8, color=colour, alpha=0.35, linewidths=0)


def curve_markdown(curve: Curve) -> str:
    """Markdown table: a row for each x, with each arm's mean, interval and difference to the first arm, paired by seed.

    A difference whose 95 % interval excludes 0 is bold.
    """
    number = decimals_from_std(curve.comparison)
    first, *others = curve.arms
    names = [curve.x, "n", *curve.arms, *(f"{arm} − {first}" for arm in others)]
    lines = []
    for x in curve.xs:
        own = [curve.rows.get((x, arm)) for arm in curve.arms]
        counts = sorted({row.n for row in own if row is not None})
        cells = [f"{x:g}", "–".join(str(count) for count in counts)]
        cells += [_format_mean(row.mean, row.interval, number) if row else EMPTY for row in own]
        cells += [_format_difference(curve.rows.get((x, first)), row, number) for row in own[1:]]
        lines.append(cells)
    rule = ["--:"] * len(names)
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, rule, *lines])


def _format_mean(mean: float | None, interval: Interval | None, number: NumberFormat) -> str:
    spread = f" [{number(interval[0])}, {number(interval[1])}]" if interval else ""
    return f"{number(mean)}{spread}"


def _format_difference(base: Row | None, row: Row | None, number: NumberFormat) -> str:
    if base is None or row is None:
        return EMPTY
    before = dict(zip(base.seeds, base.points, strict=True))
    paired = [value - before[seed] for seed, value in zip(row.seeds, row.points, strict=True) if seed in before]
    if not paired:
        return EMPTY
    mean, interval = statistics.fmean(paired), bca_intervals([paired])[0]
    said = f"{'+' if mean > 0 else ''}{_format_mean(mean, interval, number)}"
    return f"**{said}**" if interval and (interval[0] > 0 or interval[1] < 0) else said
