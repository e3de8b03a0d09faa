"""The outcome of a search: the chosen attempt with a table and a plot, or by how much the goal was missed."""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from lightning_modules.compression.budget.goal import RATIO_NAMES, Goal
from lightning_modules.config.run_names import short_value
from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes
from lightning_modules.report.tables import markdown_table
from lightning_modules.sweep.summary import DESCRIPTION_LIMIT
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_results import TrialResult

PANELS = {  # metric of both networks -> title, its ratio in a goal
    "size_bytes": ("bytes of the file", "size_ratio"),
    "latency_ms": ("latency of one sample, ms", "latency_ratio"),
    "macs": ("multiply-accumulates of one sample", "macs_ratio"),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An attempt that was measured: `effort` and `drop` as in `Goal`."""

    result: TrialResult
    effort: float
    drop: float
    gains: dict[str, float]

    def describe(self) -> str:
        """The ratios that it reached."""
        return ", ".join(f"{gain:.3g}x {RATIO_NAMES[key]}" for key, gain in self.gains.items())

    def describe_drop(self) -> str:
        return f"{self.drop:.3g} ({self.result.name}, {self.result.run_id})"


def report_budget(sweep_store: SweepStore, goal: Goal, results: Sequence[TrialResult]) -> str | None:
    """Record the outcome, and print it if the goal was met; else return the error.

    Chosen is the attempt of the largest effort among those with an allowed drop; the smaller drop breaks a tie.
    """
    ended = [result for result in results if result.status == "FINISHED" and "compression/ratio" in result.metrics]
    attempts = [Evaluated(r, goal.effort(r.metrics), goal.drop(r.metrics), goal.gains(r.metrics)) for r in ended]
    allowed = [attempt for attempt in attempts if goal.allows(attempt.drop)]
    best = max(allowed, key=lambda attempt: (attempt.effort, -attempt.drop), default=None)
    met = best is not None and best.effort >= 1
    message = _met_message(goal, best) if best and met else _missed_message(goal, results, attempts, best)
    try:
        _record(sweep_store, goal, attempts, best, met, message)
    except (OSError, MlflowException) as error:
        log.warning("the outcome of the search could not be recorded: %s", error)
    if not met:
        return message
    print(message, flush=True)
    return None


def _met_message(goal: Goal, best: Evaluated) -> str:
    name = f"compressed/{goal.metric.replace('val/', 'test/')}"
    tested = f", {name} {best.result.metrics[name]:.4g}" if name in best.result.metrics else ""
    return (
        f"goal met ({goal.describe()}): {best.describe()}, drop of {goal.metric} {best.drop:.3g}{tested}: "
        f"{best.result.name}  {best.result.run_id}"
    )


def _missed_message(
    goal: Goal, results: Sequence[TrialResult], attempts: Sequence[Evaluated], best: Evaluated | None
) -> str:
    """What was reached instead: the largest ratios at an allowed drop, and the smallest drop at the ratios of the goal."""
    lines = [f"the goal was not met: {goal.describe()} was not reached in {_count(len(attempts))}"]
    if best:
        lines.append(f"most with a drop of {goal.max_drop:g} or less: {best.describe()}, drop {best.describe_drop()}")
    elif attempts:
        least = min(attempts, key=lambda attempt: attempt.drop)
        lines.append(f"every drop was too large; the smallest: {least.describe_drop()}: {least.describe()}")
    reached = min((a for a in attempts if a.effort >= 1), key=lambda a: a.drop, default=None)
    if reached:
        lines.append(f"smallest drop at the target: {reached.describe_drop()}: {reached.describe()}")
    failed = [result for result in results if result.status == "FAILED"]
    if failed:
        lines.append(f"{_count(len(failed))} failed; the first error: {failed[0].error}")
    lines.append("a longer fine-tuning may reach more: compression.stages.prune.epochs=…")
    return "\n  ".join(lines)


def _count(number: int) -> str:
    return f"{number} attempt{'s' * (number != 1)}"


def _record(
    sweep_store: SweepStore, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None, met: bool, message: str
) -> None:
    """Record the chosen attempt's tags and metrics, the table and the plot."""
    client, run_id = sweep_store.store.client, sweep_store.run_id
    before = client.get_run(run_id).data.tags
    note = f"{message}\n\n{before.get('mlflow.note.content', '')}"[:DESCRIPTION_LIMIT]
    tags = {"budget.goal": goal.describe(), "budget.met": str(met).lower(), "mlflow.note.content": note}
    if best:
        tags |= {"sweep.best_run_id": best.result.run_id or "", "sweep.best_name": best.result.name}
    sweep_store.tag(tags)
    if met and "touchstone.error" in before:  # an earlier command missed it
        client.delete_tag(run_id, "touchstone.error")
    if best:
        values = {**best.result.metrics, "compression/drop": best.drop}
        now, step = int(time.time() * 1000), len(attempts)  # a resumed search logs its choice again
        client.log_batch(run_id, [Metric(key, value, now, step) for key, value in values.items()])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "budget.md").write_text(to_markdown(goal, attempts, best), encoding="utf-8")
        if attempts:
            draw(goal, attempts, best).savefig(Path(folder) / "budget.png")
        client.log_artifacts(run_id, folder, "sweep")


def to_markdown(goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> str:
    """A row for each attempt, in their order, and one for the dense network; the chosen one is bold."""
    test = goal.metric.replace("val/", "test/")
    columns = {"size_bytes": ",.0f", "macs": ",.0f", "latency_ms": ".3f", goal.metric: ".4f", test: ".4f"}

    def row(number: str, name: str, metrics: dict[str, float], side: str, drop: str, reached: str) -> list[str]:
        keys = {key: f"{side}/{key}" for key in columns}
        *costs, tested = (format(metrics[k], columns[key]) if k in metrics else "" for key, k in keys.items())
        return [number, name, *costs, drop, reached, tested]

    rows = [row("", "dense", attempts[-1].result.metrics, "dense", "", "")] if attempts else []
    for a in attempts:
        mark = "**" * (a is best)
        reached = "ratios too small" if a.effort < 1 else "met" if goal.allows(a.drop) else "drop too large"
        name = f"{mark}{a.result.name}{mark}"
        rows.append(row(str(a.result.number), name, a.result.metrics, "compressed", f"{a.drop:.4f}", reached))
    titles = ["#", "attempt", "bytes", "macs", "ms", goal.metric, "drop", "goal", test]
    return f"Goal: {goal.describe()}\n\n{markdown_table(titles, rows, left=(1, 7))}\n"


def draw(goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> Figure:
    """A panel each for size, for latency if it was measured, and for macs if they are part of the goal."""
    names = [name for name in PANELS if name != "macs" or "macs_ratio" in goal.ratios]
    names = [name for name in names if all(f"compressed/{name}" in a.result.metrics for a in attempts)]
    figure = blank_figure(4.6 * len(names) + 0.6, 4.6)
    for index, (name, axes) in enumerate(zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True)):
        _panel(axes, goal, attempts, best, name)
        axes.set_ylabel(f"{goal.metric} of the compressed network" if index == 0 else "")
    met = "met" if best is not None and best.effort >= 1 else "not met"
    reached = f"{best.describe()}, drop {best.drop:.2g}" if best else "every drop was too large"
    figure.suptitle(f"{goal.describe()}: {met} ({reached})", color=INK, fontsize=11, x=0.02, ha="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None, name: str) -> None:
    """Cost and quality of each attempt; dashed lines bound the region in which the goal is met."""
    title, ratio = PANELS[name]
    style_axes(axes, "", title, "")
    metrics = attempts[-1].result.metrics
    cost, quality = metrics.get(f"dense/{name}", 0.0), metrics[f"dense/{goal.metric}"]
    if name == "latency_ms":  # of the dense network's fastest runtime
        cost = metrics[f"compressed/{name}"] * metrics["compression/speedup_best_runtime"]
    x = [attempt.result.metrics[f"compressed/{name}"] for attempt in attempts]
    y = [attempt.result.metrics[f"compressed/{goal.metric}"] for attempt in attempts]
    colours = [COLOURS[0] if goal.allows(attempt.drop) else "#AAAAAA" for attempt in attempts]
    axes.scatter(x, y, s=34, color=colours, label="attempt (grey: drop too large)", zorder=3, linewidths=0)
    axes.scatter(cost, quality, marker="*", s=130, color=COLOURS[1], label="dense", zorder=4)
    if best:
        at = list(attempts).index(best)
        axes.scatter(x[at], y[at], s=120, facecolors="none", edgecolors=INK, label="chosen", zorder=5)
    drop = goal.max_drop if goal.higher_is_better else -goal.max_drop * abs(quality)
    axes.axhline(quality - drop, color=COLOURS[2], linestyle="--", label="goal")
    if ratio in goal.ratios:
        axes.axvline(cost / goal.ratios[ratio], color=COLOURS[2], linestyle="--")
    if max(*x, cost) / max(min(*x, cost), 1e-12) > 4:
        axes.set_xscale("log")
    size = name == "size_bytes"
    axes.xaxis.set_major_formatter(EngFormatter("B") if size else lambda value, _: short_value(float(value)))
    axes.margins(0.12)
