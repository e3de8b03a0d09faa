"""A comparison as a curve over a numeric setting, for example the amount of data, with a line for each arm."""

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.comparison.result import Comparison, Row
from lightning_modules.comparison.table import formatter
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.report.figures import COLOURS, blank_figure, style_axes
from lightning_modules.report.numbers import EMPTY, NumberFormatter, format_interval
from lightning_modules.report.statistics import Interval, bca_intervals
from lightning_modules.report.tables import markdown_table, replace_section
from lightning_modules.tracking.provenance_line import provenance_of
from lightning_modules.tracking.store import open_store


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
        try:
            rows[float(row.values[place]), ", ".join(rest) or "all runs"] = row
        except ValueError as error:
            raise UserError(f"along={x}: {row.values[place]} is not a number") from error
    arms = sorted({arm for _, arm in rows}, key=lambda arm: (arm != reference, arm))
    if reference is not None and reference not in arms:
        raise UserError(f"reference={reference}: no such line; {suggest(reference, arms)}")
    return Curve(comparison, x, tuple(sorted({value for value, _ in rows})), tuple(arms), rows)


def plot_curve(curve: Curve) -> Figure:
    """Plot the mean and 95 % interval of each arm, and the seeds as pale points. x is logarithmic if it spans a decade."""
    figure = blank_figure(6.4, 4.2)
    axes = figure.add_subplot()
    comparison = curve.comparison
    style_axes(axes, "Mean, 95 % interval and seeds", curve.x, f"{comparison.metric} ({comparison.direction})")
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
    write = formatter(curve.comparison)
    first, *others = curve.arms
    lines = []
    for x in curve.xs:
        rows = [curve.rows.get((x, arm)) for arm in curve.arms]
        counts = sorted({row.n for row in rows if row is not None})
        cells = [f"{x:g}", "–".join(str(count) for count in counts)]
        cells += [_format_mean(row.mean, row.interval, write) if row else EMPTY for row in rows]
        cells += [_format_difference(rows[0], row, write) for row in rows[1:]]
        lines.append(cells)
    return markdown_table([curve.x, "n", *curve.arms, *(f"{arm} − {first}" for arm in others)], lines, left=())


def _format_mean(mean: float | None, interval: Interval | None, write: NumberFormatter, sign: bool = False) -> str:
    return f"{write(mean, sign=sign)} {format_interval(interval, write)}".strip()


def _format_difference(base: Row | None, row: Row | None, write: NumberFormatter) -> str:
    if base is None or row is None:
        return EMPTY
    before = dict(zip(base.seeds, base.points, strict=True))
    paired = [value - before[seed] for seed, value in zip(row.seeds, row.points, strict=True) if seed in before]
    if not paired:
        return EMPTY
    interval = bca_intervals([paired])[0]
    text = _format_mean(statistics.fmean(paired), interval, write, sign=True)
    return f"**{text}**" if interval and (interval.low > 0 or interval.high < 0) else text


def write_curve_files(curve: Curve, folder: Path) -> list[Path]:
    """Write ``METRIC_along_KEY.md`` and ``.png`` into `folder`; return the files."""
    name = re.sub(r"[^\w.-]+", "_", f"{curve.comparison.metric}_along_{curve.x}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{curve_markdown(curve)}\n", encoding="utf-8")
    plot_curve(curve).savefig(folder / f"{name}.png", dpi=120)
    return [folder / f"{name}.{ending}" for ending in ("md", "png")]


def write_curve_section(curve: Curve, file: Path, mark: str) -> None:
    """Write the curve between the markers of a Markdown file, and its plot beside it as ``MARK.png``."""
    ids = [run_id for row in curve.comparison.rows for run_id in row.runs]
    origin = provenance_of(open_store(), ids)
    metric = f"`{curve.comparison.metric}` ({curve.comparison.direction})"
    notes = [f"{metric}; mean and 95 % interval over n seeds; differences are paired by seed."]
    notes.append(f"{len(ids)} runs, {origin.date} at {origin.commit}; {origin.machine}.")
    replace_section(file, f"{curve_markdown(curve)}\n\n{' '.join(notes)}\n\n![{mark}]({mark}.png)", mark)
    plot_curve(curve).savefig(file.with_name(f"{mark}.png"), dpi=80)
