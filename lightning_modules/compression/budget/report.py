"""The outcome of a search: the chosen attempt with a table and a plot, or by how much the goal was missed.

Longer than 200 lines: the message, the table and the plot show the same attempts.
"""

import logging
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lightning_modules.compression.budget.goal import RATIO_NAMES, Goal
from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes
from lightning_modules.report.tables import markdown_table
from lightning_modules.sweep.plans import short_value
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


def evaluate_attempts(goal: Goal, results: Sequence[TrialResult]) -> list[Evaluated]:
    """The attempts that ended with a compressed network, by number."""
    ended = [result for result in results if result.status == "FINISHED" and "compression/ratio" in result.metrics]
    return [Evaluated(c, goal.effort(c.metrics), goal.drop(c.metrics), goal.gains(c.metrics)) for c in ended]


def choose_best(goal: Goal, attempts: Sequence[Evaluated]) -> Evaluated | None:
    """The attempt of the largest effort among those with an allowed drop; the smaller drop breaks a tie."""
    good = [attempt for attempt in attempts if goal.allows(attempt.drop)]
    return max(good, key=lambda attempt: (attempt.effort, -attempt.drop), default=None)


def report_budget(sweep_store: SweepStore, goal: Goal, results: Sequence[TrialResult]) -> str | None:
    """Record the outcome, and print it if the goal was met; else return the error."""
    attempts = evaluate_attempts(goal, results)
    best = choose_best(goal, attempts)
    if best and best.effort >= 1:
        message = _met_message(goal, best)
        _record(sweep_store, goal, attempts, best, True, message)
        print(message, flush=True)
        return None
    message = _missed_message(goal, results, attempts, best)
    _record(sweep_store, goal, attempts, best, False, message)
    return message


def _met_message(goal: Goal, best: Evaluated) -> str:
    test = {key: value for key, value in best.result.metrics.items() if key.startswith("compressed/test/")}
    name = f"compressed/{goal.metric.replace('val/', 'test/')}"
    tested = f", {name} {test[name]:.4g}" if name in test else ""
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
        lines.append(f"most with a drop of {goal.max_drop:g} or less: {best.describe()}, drop {_describe_drop(best)}")
    elif attempts:
        least = min(attempts, key=lambda attempt: attempt.drop)
        lines.append(f"every drop was too large; the smallest: {_describe_drop(least)}: {least.describe()}")
    reached = min((a for a in attempts if a.effort >= 1), key=lambda a: a.drop, default=None)
    if reached:
        lines.append(f"smallest drop at the target: {_describe_drop(reached)}: {reached.describe()}")
    failed = [result for result in results if result.status == "FAILED"]
    if failed:
        lines.append(f"{_count(len(failed))} failed; the first error: {failed[0].error}")
    lines.append("a longer fine-tuning may reach more: compression.stages.prune.epochs=…")
    return "\n  ".join(lines)


def _count(number: int) -> str:
    return f"{number} attempt{'s' * (number != 1)}"


def _describe_drop(attempt: Evaluated) -> str:
    return f"{attempt.drop:.3g} ({attempt.result.name}, {attempt.result.run_id})"


def _record(
    sweep_store: SweepStore, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None, met: bool, message: str
) -> None:
    """Record the chosen attempt's tags and metrics, the table and the plot; only warn if the store fails."""
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client, run_id = sweep_store.store.client, sweep_store.run_id
    before = client.get_run(run_id).data.tags
    note = before.get("mlflow.note.content", "")
    tags = {
        "budget.goal": goal.describe(),
        "budget.met": str(met).lower(),
        "mlflow.note.content": f"{message}\n\n{note}",
    }
    tags["mlflow.note.content"] = tags["mlflow.note.content"][:DESCRIPTION_LIMIT]
    if best:
        tags |= {"sweep.best_run_id": best.result.run_id or "", "sweep.best_name": best.result.name}
    try:
        sweep_store.tag(tags)
        if met and "touchstone.error" in before:  # an earlier command missed it
            client.delete_tag(run_id, "touchstone.error")
        if best:
            values = {**best.result.metrics, "compression/drop": best.drop}
            now, step = int(time.time() * 1000), len(attempts)  # a resumed search logs its choice again
            client.log_batch(run_id, [Metric(key, value, now, step) for key, value in values.items()])
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), goal, attempts, best)
            client.log_artifacts(run_id, folder, "sweep")
    except (OSError, MlflowException) as error:
        log.warning("the outcome of the search could not be recorded: %s", error)


def _write_files(folder: Path, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> None:
    (folder / "budget.md").write_text(to_markdown(goal, attempts, best), encoding="utf-8")
    if attempts:
        draw(goal, attempts, best).savefig(folder / "budget.png")


def to_markdown(goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> str:
    """A row for each attempt, in their order, and one for the dense network; the chosen one is bold."""
    test = goal.metric.replace("val/", "test/")
    titles = ["#", "attempt", "bytes", "macs", "ms", goal.metric, "drop", "goal", test]
    rows = []
    if attempts:
        rows.append(_row("", "dense", attempts[-1].result.metrics, "dense", goal.metric, test, "", ""))
    for attempt in attempts:
        mark = "**" * (attempt is best)
        name = f"{mark}{attempt.result.name}{mark}"
        reached = "met" if attempt.effort >= 1 and goal.allows(attempt.drop) else ""
        reached = reached or ("drop too large" if attempt.effort >= 1 else "ratios too small")
        drop = f"{attempt.drop:.4f}"
        number = str(attempt.result.number)
        rows.append(_row(number, name, attempt.result.metrics, "compressed", goal.metric, test, drop, reached))
    return f"Goal: {goal.describe()}\n\n{markdown_table(titles, rows, left=(1, 7))}\n"


def _row(
    number: str, name: str, metrics: dict[str, float], side: str, metric: str, test: str, drop: str, reached: str
) -> list[str]:
    def cell(key: str, form: str) -> str:
        return format(metrics[f"{side}/{key}"], form) if f"{side}/{key}" in metrics else ""

    costs = [cell("size_bytes", ",.0f"), cell("macs", ",.0f"), cell("latency_ms", ".3f")]
    return [number, name, *costs, cell(metric, ".4f"), drop, reached, cell(test, ".4f")]


def draw(goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> Figure:
    """A panel each for size, for latency if it was measured, and for macs if they are part of the goal."""
    names = [name for name in PANELS if name != "macs" or "macs_ratio" in goal.ratios]
    names = [name for name in names if all(f"compressed/{name}" in a.result.metrics for a in attempts)]
    figure = blank_figure(4.6 * len(names) + 0.6, 4.6)
    for index, (name, axes) in enumerate(zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True)):
        _panel(axes, goal, attempts, best, name)
        axes.set_ylabel(f"{goal.metric} of the compressed network" if index == 0 else "")
    met = best is not None and best.effort >= 1
    reached = f"{best.describe()}, drop {best.drop:.2g}" if best else "every drop was too large"
    figure.suptitle(
        f"{goal.describe()}: {'met' if met else 'not met'} ({reached})", color=INK, fontsize=11, x=0.02, ha="left"
    )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None, name: str) -> None:
    title, ratio = PANELS[name]
    style_axes(axes, "", title, "")
    metrics = attempts[-1].result.metrics
    dense = _dense(goal, metrics, name), metrics[f"dense/{goal.metric}"]
    places = [(a.result.metrics[f"compressed/{name}"], a.result.metrics[f"compressed/{goal.metric}"]) for a in attempts]
    for keeps, colour, label in ((True, COLOURS[0], "drop allowed"), (False, "#AAAAAA", "drop too large")):
        own = [position for position, a in zip(places, attempts, strict=True) if goal.allows(a.drop) == keeps]
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
    """The dense network's cost; its latency is that of its fastest runtime."""
    if name != "latency_ms":
        return metrics[f"dense/{name}"]
    return metrics[f"compressed/{name}"] * metrics["compression/speedup_best_runtime"]


def _front(axes: Axes, places: Sequence[tuple[float, float]], higher_is_better: bool) -> None:
    """Draw the Pareto front as steps."""
    reached, front = -math.inf, []
    for x, y in sorted(places, key=lambda position: (position[0], -position[1] if higher_is_better else position[1])):
        value = y if higher_is_better else -y
        if value > reached:
            reached = value
            front.append((x, y))
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color=COLOURS[0], linewidth=1.2, alpha=0.5)


def _shade(axes: Axes, goal: Goal, dense: tuple[float, float], ratio: str) -> None:
    """Shade the region in which the goal is met."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    right = dense[0] / goal.ratios[ratio] if ratio in goal.ratios else high
    limit = dense[1] - goal.max_drop if goal.higher_is_better else dense[1] + goal.max_drop * abs(dense[1])
    span = (limit, max(top, limit)) if goal.higher_is_better else (min(bottom, limit), limit)
    low = min(low, right * 0.8)
    axes.fill_between([low, right], *span, color=COLOURS[2], alpha=0.13, linewidth=0, label="the goal", zorder=0)
    axes.set(xlim=(low, max(high, right)), ylim=(min(bottom, span[0]), max(top, span[1])))
