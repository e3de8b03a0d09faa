"""The trials of a sweep, ranked, and as a table in CSV and HTML."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lightning_modules.config.run_names import short_keys, short_value
from lightning_modules.report.numbers import format_exact_duration, format_number, shortest_decimal
from lightning_modules.report.tables import csv_table
from lightning_modules.sweep.configurations import Configuration, ranked_configurations, scores
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


def best_trial(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> TrialResult | None:
    """The best configuration's mean, the trial itself if it has one; None without any, or with several objectives."""
    return (
        next((one.mean for one in ranked_configurations(results, objectives)), None) if len(objectives) == 1 else None
    )


def ranked_trials(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The FINISHED trials that have all values, the best first, by the first objective."""
    comparable = [result for result in results if result.status == "FINISHED" and scores(result, objectives)]
    return sorted(comparable, key=lambda result: (scores(result, objectives), result.number))


def pareto_front(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[Configuration]:
    """The Pareto front of the configurations, sorted by the first objective."""
    ranked = ranked_configurations(results, objectives)
    points = [scores(one.mean, objectives) for one in ranked]
    return [
        one
        for one, own in zip(ranked, points, strict=True)
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in points)
    ]


def status_line(results: Sequence[TrialResult]) -> str:
    """Counts by status: ``24 runs: 22 finished, 2 pruned``."""
    kinds = ", ".join(f"{count} {status.lower()}" for status, count in counts(results).items())
    return f"{len(results)} run{'s' * (len(results) != 1)}{': ' * bool(kinds)}{kinds}"


def counts(results: Iterable[TrialResult]) -> dict[str, int]:
    """Number of trials by status, in the order of `STATES`."""
    found = Counter(result.status for result in results)
    return {status: found[status] for status in STATES if found[status]}


def sorted_trials(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> list[TrialResult]:
    """The trials of each configuration, the best one first, then the others by number."""
    first = [trial for one in ranked_configurations(results, objectives) for trial in one.trials]
    return first + [result for result in results if result not in first]


def highlighted(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> set[int]:
    """The numbers of the trials of the best configuration, or of the Pareto front if there are several objectives."""
    few = len(objectives) == 1
    best = ranked_configurations(results, objectives)[:1] if few else pareto_front(results, objectives)
    return {trial.number for one in best for trial in one.trials}


def to_csv(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> str:
    """One row per trial, by number, in full precision."""
    params, metrics = _union(result.params for result in results), _metrics(results)
    best_of = [f"best {name}" for name in objectives]
    columns = [
        "number",
        "name",
        "status",
        *params,
        *best_of,
        *metrics,
        "duration_s",
        "attempts",
        "linked",
        "run_id",
        "error",
    ]
    rows = [
        [result.number, result.name, result.status]
        + [result.params.get(key, "") for key in params]
        + [shortest_decimal(result.values.get(name)) for name in objectives]
        + [shortest_decimal(result.metrics.get(name)) for name in metrics]
        + [result.duration_s, result.attempts, str(result.linked).lower(), result.run_id, first_line(result.error)]
        for result in results
    ]
    return csv_table(columns, rows)


def to_html(results: Sequence[TrialResult], objectives: Mapping[str, str], title: str) -> str:
    """A page, the best trial first and highlighted; without links: MLflow shows it in a frame that cannot follow any."""
    params, metrics = _union(result.params for result in results), _metrics(results)
    called = short_keys(params)
    titles = ["#", "status", *(f"best {name}" for name in objectives), *(called[key] for key in params), *metrics]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [*titles, "duration", "attempts"])
    good = highlighted(results, objectives)
    rows = "\n".join(
        _html_row(result, params, objectives, metrics, result.number in good)
        for result in sorted_trials(results, objectives)
    )
    caption = f"<b>{html.escape(title)}</b><br>{status_line(results)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><table><caption>{caption}</caption>\n"
        f'<thead><tr>{head}<th class="text">run</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></body></html>\n'
    )


def _html_row(
    result: TrialResult, params: Sequence[str], objectives: Iterable[str], metrics: Sequence[str], good: bool
) -> str:
    error = f' title="{html.escape(result.error)}"' if result.error else ""
    values = [format_number(result.values.get(name)) for name in objectives]
    values += [short_value(result.params[key]) if key in result.params else "" for key in params]
    values += [format_number(result.metrics.get(name)) for name in metrics]
    values += [format_exact_duration(result.duration_s), str(result.attempts)]
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in values)
    status = result.status + " (linked)" * result.linked
    return (
        f'<tr class="{"best " * good}{result.status}"><td>{result.number}</td><td class="text"{error}>{status}</td>'
        f'{cells}<td class="id">{html.escape(result.run_id or "")}</td></tr>'
    )


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _metrics(results: Iterable[TrialResult]) -> list[str]:
    return sorted(_union(result.metrics for result in results))


def first_line(text: str | None) -> str:
    """The first line of an error message."""
    return next(iter((text or "").strip().splitlines()), "")
