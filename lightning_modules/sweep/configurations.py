"""Configurations of a sweep: trials that differ only in seed or fold. They are ranked by the mean of these trials."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from lightning_modules.comparison.groups import SEED_PATTERN
from lightning_modules.config.run_names import run_name
from lightning_modules.report.numbers import shortest_decimal
from lightning_modules.report.t_intervals import summarize
from lightning_modules.sweep.trial_results import TrialResult

_POOLED = ("accuracy", "mse", "mae")  # of our tasks: means over samples, so that folds pool exactly


class Configuration(NamedTuple):
    """The finished trials of one configuration, by number, and their mean: the trial itself if there is only one."""

    mean: TrialResult
    trials: list[TrialResult]


def scores(result: TrialResult, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The values, negated where larger is better; empty if one is missing."""
    values = [(result.values.get(name), direction) for name, direction in objectives.items()]
    found = tuple(value if direction == "minimize" else -value for value, direction in values if value is not None)
    return found if len(found) == len(objectives) else ()


def ranked_configurations(results: Iterable[TrialResult], objectives: Mapping[str, str]) -> list[Configuration]:
    """The configurations, the best mean of the first objective first.

    Those with fewer finished trials than others come last: a single seed may be lucky.
    """
    groups = defaultdict[str, list[TrialResult]](list)
    for result in sorted(results, key=lambda result: result.number):
        if result.status == "FINISHED" and scores(result, objectives):
            settings = _settings(result)
            key = [settings] if len(settings) < len(result.params) else [settings, result.number]
            groups[json.dumps(key, sort_keys=True, default=str)].append(result)
    most = max(map(len, groups.values()), default=0)
    found = [Configuration(_mean(trials), trials) for trials in groups.values()]
    return sorted(found, key=lambda one: (len(one.trials) < most, scores(one.mean, objectives), one.mean.number))


def _settings(result: TrialResult) -> dict[str, object]:
    return {key: value for key, value in result.params.items() if not SEED_PATTERN.search(key)}


def _mean(trials: Sequence[TrialResult]) -> TrialResult:
    first, *others = trials
    if not others:
        return first
    settings = _settings(first)
    name = ", ".join(filter(None, [run_name(settings, list(settings)), f"mean of {len(trials)} runs"]))
    shared = [key for key in first.metrics if all(key in other.metrics for other in others)]
    return replace(
        first,
        name=name,
        params=settings,
        values={key: fmean(trial.values[key] or 0.0 for trial in trials) for key in first.values},
        metrics={key: fmean(trial.metrics[key] for trial in trials) for key in shared},
        duration_s=fmean(trial.duration_s or 0.0 for trial in trials),
    )


def metrics_of_children(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> dict[str, float]:
    """Metrics of the sweep's run, of the objectives and the test metrics.

    ``…_mean`` and ``…_std`` are over all finished trials; ``…_best`` is the mean of the best configuration by the (first)
    objective; ``…_pooled`` is its score over the samples of all folds, where that follows exactly from the folds' scores.
    """
    finished = [result for result in results if result.status == "FINISHED"]
    best = ranked_configurations(finished, objectives)[0].trials if objectives and finished else []
    tested = {name for one in finished for name in one.metrics if re.fullmatch("(compressed/)?test/[^/]+", name)}
    found: dict[str, float | None] = {}
    for name in [*objectives, *sorted(tested - set(objectives))]:
        if every := summarize(_values(finished, name)):
            found |= {f"{name}_mean": every.mean, f"{name}_std": every.std}
        if chosen := summarize(_values(best, name)):
            found |= {f"{name}_best": chosen.mean, f"{name}_pooled": _pooled(best, name)}
    return {name: float(f"{value:.12g}") for name, value in found.items() if value is not None}  # no rounding errors


def _values(trials: Iterable[TrialResult], name: str) -> list[float]:
    """The finite values of an objective, or of another metric at the end; most were computed as float32."""
    values = (shortest_decimal(trial.values.get(name, trial.metrics.get(name))) for trial in trials)
    return [value for value in values if value is not None and abs(value) < 1e308]


def _pooled(trials: Sequence[TrialResult], name: str) -> float | None:
    """The mean over the samples of all folds; None unless each fold is there equally often and the metric is known."""
    part, _, metric = name.rpartition("/")
    parts = [trial.fold for trial in trials if trial.fold and trial.fold.part == part]
    values = _values(trials, name)
    times = Counter(fold.number for fold in parts)
    is_whole = bool(parts) and set(times) == set(range(parts[0].total)) and len(set(times.values())) == 1
    if not is_whole or not len(trials) == len(parts) == len(values) or metric.removeprefix("r") not in _POOLED:
        return None
    power = 2 if metric == "rmse" else 1
    total = math.fsum(fold.samples * value**power for fold, value in zip(parts, values, strict=True))
    return float((total / sum(fold.samples for fold in parts)) ** (1 / power))
