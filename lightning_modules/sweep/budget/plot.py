"""Quality against size, latency and macs: every attempt, the dense network, and the region that the budget asks for."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes
from lightning_modules.sweep.budget.goal import Goal
from lightning_modules.sweep.trial_names import short_value

if TYPE_CHECKING:
    from lightning_modules.sweep.budget.report import Evaluated

PANELS = {  # metric of both sides: title, the ratio that may be asked of it
    "size_bytes": ("bytes of the file", "size_ratio"),
    "latency_ms": ("latency of one sample, ms", "latency_ratio"),
    "macs": ("multiply-accumulates of one sample", "macs_ratio"),
}


def draw(goal: Goal, attempts: "Sequence[Evaluated]", best: "Evaluated | None") -> Figure:
    """A panel for size, one for latency where it was measured, one for macs where they are asked for."""
    names = [name for name in PANELS if name != "macs" or "macs_ratio" in goal.ratios]
    names = [name for name in names if all(f"compressed/{name}" in a.child.metrics for a in attempts)]
    figure = blank_figure(4.6 * len(names) + 0.6, 4.6)
    for index, (name, axes) in enumerate(zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True)):
        _panel(axes, goal, attempts, best, name)
        axes.set_ylabel(f"{goal.metric} of the compressed network" if index == 0 else "")
    met = best is not None and best.effort >= 1
    said = f"{best.said()}, drop {best.drop:.2g}" if best else "no attempt kept the quality"
    figure.suptitle(f"{goal.said()}: {'met' if met else 'not met'} ({said})", color=INK, fontsize=11, x=0.02, ha="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, goal: Goal, attempts: "Sequence[Evaluated]", best: "Evaluated | None", name: str) -> None:
    title, ratio = PANELS[name]
    style_axes(axes, "", title, "")
    metrics = attempts[-1].child.metrics
    dense = _dense(goal, metrics, name), metrics[f"dense/{goal.metric}"]
    places = [(a.child.metrics[f"compressed/{name}"], a.child.metrics[f"compressed/{goal.metric}"]) for a in attempts]
    for keeps, colour, label in ((True, COLOURS[0], "keeps the quality"), (False, "#AAAAAA", "loses too much")):
        own = [position for position, a in zip(places, attempts, strict=True) if goal.keeps(a.drop) == keeps]
        axes.scatter([x for x, _ in own], [y for _, y in own], s=34, color=colour, label=label, zorder=3, linewidths=0)
    axes.scatter(*dense, marker="*", s=130, color=COLOURS[1], label="dense", zorder=4)
    if best:
        axes.scatter(
            *places[list(attempts).index(best)], s=120, facecolors="none", edgecolors=INK, label="chosen", zorder=5
        )
    _front(axes, places, goal.higher_is_better)
    xs = [x for x, _ in places] + [dense[0]]
    if max(xs) / max(min(xs), 1e-12) > 4:
        axes.set_xscale("log")
    if name == "size_bytes":
        axes.xaxis.set_major_formatter(EngFormatter("B"))
    else:
        axes.xaxis.set_major_formatter(lambda value, _: short_value(float(value)))
    axes.margins(0.12)
    _shade(axes, goal, dense, ratio)


def _dense(goal: Goal, metrics: dict[str, float], name: str) -> float:
    """The dense network's cost; its latency in the runtime that is its best, which is what counts."""
    if name != "latency_ms":
        return metrics[f"dense/{name}"]
    return metrics[f"compressed/{name}"] * metrics["compression/speedup_best_runtime"]


def _front(axes: Axes, places: Sequence[tuple[float, float]], more_is_better: bool) -> None:
    """Stairs along the attempts that no other beats in both."""
    reached, front = -math.inf, []
    for x, y in sorted(places, key=lambda position: (position[0], -position[1] if more_is_better else position[1])):
        value = y if more_is_better else -y
        if value > reached:
            reached = value
            front.append((x, y))
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color=COLOURS[0], linewidth=1.2, alpha=0.5)


def _shade(axes: Axes, goal: Goal, dense: tuple[float, float], ratio: str) -> None:
    """Where the budget is met as far as this panel shows it."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    right = dense[0] / goal.ratios[ratio] if ratio in goal.ratios else high
    limit = dense[1] - goal.max_drop if goal.higher_is_better else dense[1] + goal.max_drop * abs(dense[1])
    span = (limit, max(top, limit)) if goal.higher_is_better else (min(bottom, limit), limit)
    low = min(low, right * 0.8)
    axes.fill_between([low, right], *span, color=COLOURS[2], alpha=0.13, linewidth=0, label="the budget", zorder=0)
    axes.set(xlim=(low, max(high, right)), ylim=(min(bottom, span[0]), max(top, span[1])))
