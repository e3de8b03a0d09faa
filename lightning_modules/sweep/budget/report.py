"""What a search to a budget found: the chosen attempt, a table, a picture; or what was missed by how much."""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.sweep.budget.goal import RATIO_NAMES, Goal
from lightning_modules.sweep.trial_results import TrialResult

if TYPE_CHECKING:
    from lightning_modules.sweep.budget.plan import BudgetPlan
    from lightning_modules.sweep.sweep_store import SweepStore

NOTE_LIMIT = 8000  # characters that MLflow keeps of a tag

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An attempt that was measured: `effort` and `drop` as in `Goal`."""

    child: TrialResult
    effort: float
    drop: float
    gains: dict[str, float]

    def said(self) -> str:
        """What it reached, in words."""
        return ", ".join(f"{gain:.3g}x {RATIO_NAMES[key]}" for key, gain in self.gains.items())


def evaluate_attempts(goal: Goal, children: Sequence[TrialResult]) -> list[Evaluated]:
    """The attempts that ended with a compressed network, in their order."""
    ended = [child for child in children if child.status == "FINISHED" and "compression/ratio" in child.metrics]
    return [Evaluated(c, goal.effort(c.metrics), goal.drop(c.metrics), goal.gains(c.metrics)) for c in ended]


def choose_best(goal: Goal, attempts: Sequence[Evaluated]) -> Evaluated | None:
    """The attempt that is furthest towards the goal or beyond it and keeps the quality; the smaller drop breaks a tie."""
    good = [attempt for attempt in attempts if goal.keeps(attempt.drop)]
    return max(good, key=lambda attempt: (attempt.effort, -attempt.drop), default=None)


def report_budget(ledger: "SweepStore", plan: "BudgetPlan", children: Sequence[TrialResult]) -> str | None:
    """Record and print the outcome; return the message where the budget was not met."""
    goal, attempts = plan.goal, evaluate_attempts(plan.goal, children)
    best = choose_best(goal, attempts)
    met = best is not None and best.effort >= 1
    missed = None if met else _missed_message(goal, children, attempts, best)
    said = _met_message(goal, best) if best and met else missed or ""
    _record(ledger, goal, attempts, best, met, said)
    if met:
        print(said, flush=True)
    return missed


def _met_message(goal: Goal, best: Evaluated) -> str:
    test = {key: value for key, value in best.child.metrics.items() if key.startswith("compressed/test/")}
    name = f"compressed/{goal.metric.replace('val/', 'test/')}"
    tested = f", {name} {test[name]:.4g}" if name in test else ""
    return (
        f"budget met ({goal.said()}): {best.said()}, drop of {goal.metric} {best.drop:.3g}{tested}: "
        f"{best.child.name}  {best.child.run_id}"
    )


def _missed_message(
    goal: Goal, children: Sequence[TrialResult], attempts: Sequence[Evaluated], best: Evaluated | None
) -> str:
    """What was reached instead: the most at the quality that is allowed, and the quality at what is wanted."""
    lines = [f"the budget cannot be met: {goal.said()} was not reached in {_count(len(attempts))}"]
    if best:
        lines.append(f"most with a drop of {goal.max_drop:g} or less: {best.said()}, drop {_describe_drop(best)}")
    elif attempts:
        least = min(attempts, key=lambda attempt: attempt.drop)
        lines.append(f"no attempt kept the quality; the least drop: {_describe_drop(least)}: {least.said()}")
    reached = min((a for a in attempts if a.effort >= 1), key=lambda a: a.drop, default=None)
    if reached:
        lines.append(f"least drop at what is wanted: {_describe_drop(reached)}: {reached.said()}")
    failed = [child for child in children if child.status == "FAILED"]
    if failed:
        lines.append(f"{_count(len(failed))} failed; the first one: {failed[0].error}")
    lines.append("a longer fine-tuning may reach more: compression.stages.prune.epochs=…")
    return "\n  ".join(lines)


def _count(number: int) -> str:
    return f"{number} attempt{'s' * (number != 1)}"


def _describe_drop(attempt: Evaluated) -> str:
    return f"{attempt.drop:.3g} ({attempt.child.name}, {attempt.child.run_id})"


def _record(
    ledger: "SweepStore", goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None, met: bool, said: str
) -> None:
    """Tags and metrics of the chosen attempt, the table and the picture; a store that fails now ends nothing."""
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client, run_id = ledger.store.client, ledger.run_id
    before = client.get_run(run_id).data.tags
    note = before.get("mlflow.note.content", "")
    tags = {"budget.goal": goal.said(), "budget.met": str(met).lower(), "mlflow.note.content": f"{said}\n\n{note}"}
    tags["mlflow.note.content"] = tags["mlflow.note.content"][:NOTE_LIMIT]
    if best:
        tags |= {"sweep.best_run_id": best.child.run_id or "", "sweep.best_name": best.child.name}
    try:
        ledger.tag(tags)
        if met and "touchstone.error" in before:  # of an earlier end, short of the goal
            client.delete_tag(run_id, "touchstone.error")
        if best:
            values = {**best.child.metrics, "compression/drop": best.drop}
            now, step = int(time.time() * 1000), len(attempts)  # a search that went on logs its choice again
            client.log_batch(run_id, [Metric(key, value, now, step) for key, value in values.items()])
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), goal, attempts, best)
            client.log_artifacts(run_id, folder, "sweep")
    except (OSError, MlflowException) as error:
        log.warning("the outcome of the search could not be recorded: %s", error)


def _write(folder: Path, goal: Goal, attempts: Sequence[Evaluated], best: Evaluated | None) -> None:
    from lightning_modules.sweep.budget.plot import draw
    from lightning_modules.sweep.budget.table import to_markdown

    (folder / "budget.md").write_text(to_markdown(goal, attempts, best), encoding="utf-8")
    if attempts:
        draw(goal, attempts, best).savefig(folder / "budget.png")
