"""The trials of a sweep as a table: CSV for programs, and a page of HTML."""

import csv
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_modules.report.numbers import format_exact_duration, format_number
from lightning_modules.sweep.ranking import best_trial, pareto_trials, ranked_trials
from lightning_modules.sweep.trial_names import short_keys, short_value
from lightning_modules.sweep.trial_results import TrialResult

STATES = ("FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING", "MISSING")

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; color: #222; background: #fff; margin: 1.5em; }
table { border-collapse: collapse; }
caption { text-align: left; padding-bottom: .7em; }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #888; }
td.text, th.text { text-align: left; }
td.id { font-family: ui-monospace, monospace; font-size: 12px; text-align: left; }
tr.best { background: #d9f0e6; font-weight: 600; }
tr.PRUNED, tr.KILLED, tr.MISSING { color: #888; }
tr.FAILED td.text { color: #b03a00; }
"""


def status_line(children: Sequence[TrialResult]) -> str:
    """How many there are, and of each kind: ``24 runs: 22 finished, 2 pruned``."""
    kinds = ", ".join(f"{count} {status.lower()}" for status, count in counts(children).items())
    return f"{len(children)} run{'s' * (len(children) != 1)}{': ' * bool(kinds)}{kinds}"


def counts(children: Iterable[TrialResult]) -> dict[str, int]:
    """How many children have each status that occurs, in a fixed order."""
    found = Counter(child.status for child in children)
    return {status: found[status] for status in STATES if found[status]}


def sorted_trials(children: Sequence[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The comparable children by the first objective, the best first; then the others by number."""
    first = ranked_trials(children, objectives)
    numbers = {child.number for child in first}
    return first + [child for child in children if child.number not in numbers]


def highlighted(children: Iterable[TrialResult], objectives: Mapping[str, str]) -> set[int]:
    """The numbers of the best child, or of the front where there are several objectives."""
    if len(objectives) > 1:
        return {child.number for child in pareto_trials(children, objectives)}
    winner = best_trial(children, objectives)
    return {winner.number} if winner else set()


def to_csv(children: Sequence[TrialResult], objectives: Mapping[str, str]) -> str:
    """All there is, by number, a row for each child, numbers in full precision."""
    params, metrics = _union(child.params for child in children), _metrics(children)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    best_of = [f"best {name}" for name in objectives]
    writer.writerow(
        ["number", "name", "status", *params, *best_of, *metrics, "duration_s", "attempts", "linked", "run_id", "error"]
    )
    for child in children:
        writer.writerow(
            [child.number, child.name, child.status]
            + [child.params.get(key, "") for key in params]
            + [child.values.get(name) for name in objectives]
            + [child.metrics.get(name) for name in metrics]
            + [child.duration_s, child.attempts, str(child.linked).lower(), child.run_id, first_line(child.error)]
        )  # fmt: skip
    return text.getvalue()


def to_html(children: Sequence[TrialResult], objectives: Mapping[str, str], title: str) -> str:
    """A page of its own, the best first and marked. It has no links: MLflow shows it in a frame that may not follow any."""
    params, metrics = _union(child.params for child in children), _metrics(children)
    called = short_keys(params)
    titles = ["#", "status", *(f"best {name}" for name in objectives), *(called[key] for key in params), *metrics]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [*titles, "duration", "attempts"])
    good = highlighted(children, objectives)
    rows = "\n".join(
        _html_row(child, params, objectives, metrics, child.number in good)
        for child in sorted_trials(children, objectives)
    )
    caption = f"<b>{html.escape(title)}</b><br>{status_line(children)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><table><caption>{caption}</caption>\n"
        f'<thead><tr>{head}<th class="text">run</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></body></html>\n'
    )


def _html_row(
    child: TrialResult, params: Sequence[str], objectives: Iterable[str], metrics: Sequence[str], good: bool
) -> str:
    error = f' title="{html.escape(child.error)}"' if child.error else ""
    values = [format_number(child.values.get(name)) for name in objectives]
    values += [short_value(child.params[key]) if key in child.params else "" for key in params]
    values += [format_number(child.metrics.get(name)) for name in metrics]
    values += [format_exact_duration(child.duration_s), str(child.attempts)]
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in values)
    status = child.status + " (linked)" * child.linked
    return (
        f'<tr class="{"best " * good}{child.status}"><td>{child.number}</td><td class="text"{error}>{status}</td>'
        f'{cells}<td class="id">{html.escape(child.run_id or "")}</td></tr>'
    )


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _metrics(children: Iterable[TrialResult]) -> list[str]:
    return sorted(_union(child.metrics for child in children))


def first_line(text: str | None) -> str:
    """The first line of an error's text."""
    return next(iter((text or "").strip().splitlines()), "")
