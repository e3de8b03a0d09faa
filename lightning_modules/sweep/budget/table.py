"""The attempts of a search to a budget as a table in Markdown; all their metrics stand in ``children.csv``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_modules.report.tables import markdown_table
from lightning_modules.sweep.budget.goal import Goal

if TYPE_CHECKING:
    from lightning_modules.sweep.budget.report import Evaluated


def to_markdown(goal: Goal, attempts: "Sequence[Evaluated]", best: "Evaluated | None") -> str:
    """A row for each attempt, in their order, and one for the dense network; the chosen one is bold."""
    test = goal.metric.replace("val/", "test/")
    titles = ["#", "attempt", "bytes", "macs", "ms", goal.metric, "drop", "goal", test]
    rows = []
    if attempts:
        rows.append(_row("", "dense", attempts[-1].child.metrics, "dense", goal.metric, test, "", ""))
    for attempt in attempts:
        mark = "**" * (attempt is best)
        name = f"{mark}{attempt.child.name}{mark}"
        reached = "met" if attempt.effort >= 1 and goal.keeps(attempt.drop) else ""
        reached = reached or ("too much lost" if attempt.effort >= 1 else "not small or fast enough")
        drop = f"{attempt.drop:.4f}"
        number = str(attempt.child.number)
        rows.append(_row(number, name, attempt.child.metrics, "compressed", goal.metric, test, drop, reached))
    return f"Goal: {goal.said()}\n\n{markdown_table(titles, rows, left=(1, 7))}\n"


def _row(
    number: str, name: str, metrics: dict[str, float], side: str, metric: str, test: str, drop: str, reached: str
) -> list[str]:
    def cell(key: str, form: str) -> str:
        return format(metrics[f"{side}/{key}"], form) if f"{side}/{key}" in metrics else ""

    costs = [cell("size_bytes", ",.0f"), cell("macs", ",.0f"), cell("latency_ms", ".3f")]
    return [number, name, *costs, cell(metric, ".4f"), drop, reached, cell(test, ".4f")]
