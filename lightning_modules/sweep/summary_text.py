"""A sweep in short: the description that stands at the top of its run's page, and the table at the end in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import format_exact_duration, format_number
from lightning_modules.report.tables import escape_markdown, markdown_table, terminal_table
from lightning_modules.sweep.ranking import best_trial, pareto_trials, ranked_trials
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.sweep.trial_table import first_line, sorted_trials, status_line

if TYPE_CHECKING:
    from rich.console import Group

DESCRIPTION_ROWS, TERMINAL_ROWS, MAX_FAILURES = 20, 10, 5
DESCRIPTION_LIMIT = 8000  # characters that MLflow keeps of a tag, and so of a description
_TEST_METRICS = 3  # that stand beside the objectives


def mlflow_description(
    children: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str, run_id: str, resume_command: str
) -> str:
    """Describe the sweep in Markdown, with links to its best runs; at most `NOTE_LIMIT` characters.

    Args:
        experiment_id, run_id: of the sweep's own run.
        resume_command: what goes on with it.
    """
    metrics = _test_metrics(children, objectives)
    titles = ["#", "run", "status", *(f"best {name}" for name in objectives), *metrics, "duration"]
    top = f"{status_line(children)}\n\n{_markdown_best(children, objectives, experiment_id)}"
    top += markdown_table([escape_markdown(title) for title in titles], [], left=(1, 2)) + "\n"
    commands = f"\nGo on:\n\n    {resume_command}\n\nCompare over seeds:\n\n    touchstone compare {run_id}\n"
    free_slots, rows = DESCRIPTION_LIMIT - len(top) - len(commands) - 100, ""
    for child in sorted_trials(children, objectives)[:DESCRIPTION_ROWS]:
        row = _markdown_row(child, objectives, metrics, experiment_id)
        if len(rows) + len(row) > free_slots:
            break
        rows += row
    shown = rows.count("\n")
    more = f"\n{shown} of {len(children)} runs; all are in `sweep/children.html`.\n" if shown < len(children) else ""
    return (top + rows + more + commands)[:DESCRIPTION_LIMIT]


def _markdown_best(children: Sequence[TrialResult], objectives: Mapping[str, str], experiment_id: str) -> str:
    winner = best_trial(children, objectives)
    if winner is not None:
        values = _format_objectives(winner, objectives)
        params = ", ".join(f"`{key}={value}`" for key, value in winner.params.items())
        return f"**Best:** {_link(winner, experiment_id)} with {values}\n\n{params}\n\n"
    front = pareto_trials(children, objectives)
    if len(objectives) < 2 or not front:
        return ""
    links = ", ".join(_link(child, experiment_id) for child in front[:DESCRIPTION_ROWS])
    return f"**Pareto front of {', '.join(objectives)}** ({len(front)} runs): {links}\n\n"


def _markdown_row(child: TrialResult, objectives: Iterable[str], metrics: Iterable[str], experiment_id: str) -> str:
    values = [child.values.get(name) for name in objectives] + [child.metrics.get(name) for name in metrics]
    status = child.status.lower() + ", linked" * child.linked
    cells = [
        str(child.number),
        _link(child, experiment_id),
        status,
        *map(format_number, values),
        format_exact_duration(child.duration_s),
    ]
    return f"| {' | '.join(cells)} |\n"


def _link(child: TrialResult, experiment_id: str) -> str:
    if child.run_id is None or child.status == "MISSING":
        return escape_markdown(child.name)
    return f"[{escape_markdown(child.name)}](#/experiments/{child.experiment_id or experiment_id}/runs/{child.run_id})"


def _format_objectives(child: TrialResult, objectives: Iterable[str]) -> str:
    return ", ".join(f"{name} {format_number(child.values.get(name))}" for name in objectives)


def _test_metrics(children: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[str]:
    names = {name for child in children for name in child.metrics}
    compressed = {name for name in names if name.startswith("compressed/test/")}
    own = {name for name in names if name.startswith("test/") and name.count("/") == 1}
    return sorted((compressed or own) - set(objectives))[:_TEST_METRICS]


def terminal_summary(children: Sequence[TrialResult], objectives: Mapping[str, str], title: str) -> "Group":
    """What is printed when a sweep ends: the best runs, how many ended how, and what the failed ones died of."""
    from rich.console import Group
    from rich.text import Text

    metrics = _test_metrics(children, objectives)
    front = {child.number for child in pareto_trials(children, objectives)} if len(objectives) > 1 else set()
    columns = ["#", "run", *(f"best {name}" for name in objectives), *metrics, "duration"]
    rows, styles = [], []
    for child in _top(children, objectives):
        values = [child.values.get(name) for name in objectives] + [child.metrics.get(name) for name in metrics]
        rows.append(
            [str(child.number), child.name, *map(format_number, values), format_exact_duration(child.duration_s)]
        )
        styles.append("bold" if child.number in front else "")
    table = terminal_table(columns, rows, left=(1,), styles=styles)
    lines = [Text(line, style="red") for line in _failure_lines(children)]
    winner = best_trial(children, objectives)
    if winner is not None:
        said = f"best   {winner.name}  {_format_objectives(winner, objectives)}  {winner.run_id}"
        lines.insert(0, Text(said, style="bold"))
    headline = Text(f"{title}: {status_line(children)}", style="bold")
    return Group(headline, *[table] * bool(table.row_count), *lines)


def _top(children: Sequence[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The front first, where there are several objectives."""
    ranked = pareto_trials(children, objectives) if len(objectives) > 1 else []
    numbers = {child.number for child in ranked}
    return (ranked + [child for child in ranked_trials(children, objectives) if child.number not in numbers])[
        :TERMINAL_ROWS
    ]


def _failure_lines(children: Iterable[TrialResult]) -> list[str]:
    failed = [child for child in children if child.status == "FAILED"]
    lines = [f"failed {child.name}: {first_line(child.error)}" for child in failed[:MAX_FAILURES]]
    return lines + [f"failed … and {len(failed) - MAX_FAILURES} more"] * (len(failed) > MAX_FAILURES)
