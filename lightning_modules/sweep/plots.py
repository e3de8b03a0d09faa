"""The plots of a sweep, drawn by Optuna: parallel coordinates, importance of the swept keys, and the Pareto front."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lightning_modules.config.run_names import short_keys, short_value
from lightning_modules.report.numbers import format_number
from lightning_modules.sweep.configurations import ranked_configurations
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.sweep.trial_table import pareto_front, ranked_trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 4  # finished trials below which importance is a guess
MAX_LEVELS = 12  # different numbers up to which they are categories, as those of a grid
MAX_NAMED = 12  # members of the Pareto front with their number in the plot
MAX_AXES = 3  # objectives that a plot of the front can show
LOG_RATIO = 8.0  # numbers with a smaller span look the same on both scales
# of 8 values or more, those are outliers that are 4 times further from the best one than the median
OUTLIER_FACTOR, MIN_VALUES = 4.0, 8


def parallel_coordinates(results: Sequence[TrialResult], objective: str, direction: str) -> Figure | None:
    """A line for each finished trial over its parameters, coloured by the objective; None without one.

    Args:
        direction: ``minimize`` or ``maximize``.
    """
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    ranked = ranked_trials(results, {objective: direction})
    if not ranked or not any(result.params for result in ranked):
        return None
    study = _study(ranked, {objective: direction})
    with _optuna_figure():
        figure = _figure_of(plot_parallel_coordinate(study, target_name=objective))
    figure.set_size_inches(min(2.0 * len(study.trials[0].params) + 4, 26), 5.2)
    winner = ranked_configurations(results, {objective: direction})[0].mean
    best = f"Best {objective} {format_number(winner.values[objective])}: {winner.name}"
    figure.axes[0].set_title("")
    figure.axes[0].set_title(best if len(best) < 90 else f"{best[:90]}…", loc="left", fontsize=10)
    return figure


def importance(results: Sequence[TrialResult], objective: str, direction: str) -> Figure | None:
    """Share of the objective's variance that each varying key explains, as bars (fANOVA, Hutter et al. 2014).

    A swept seed shows the noise: a key that explains no more may not matter. Keys that some finished trial lacks are left
    out. None with fewer than 4 finished trials or 2 varying keys, or if all values are equal.
    """
    finished = ranked_trials(results, {objective: direction})
    keys = [key for key in (finished[0].params if finished else {}) if all(key in one.params for one in finished)]
    varying = [key for key in keys if len({short_value(one.params[key]) for one in finished}) > 1]
    if len(finished) < MIN_TRIALS or len(varying) < 2:
        return None
    study = _study(finished, {objective: direction}, varying)
    if np.ptp([trial.values[0] for trial in study.trials]) == 0:
        return None
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    with _optuna_figure():
        axes = plot_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), target_name=objective)
        figure = _figure_of(axes)
    axes.set_xlabel(f"share of the variance of {objective} explained (fANOVA, {len(study.trials)} runs)")
    figure.set_size_inches(7, 1.5 + 0.38 * len(study.trials[0].params))
    return figure


def plot_pareto(results: Sequence[TrialResult], objectives: Mapping[str, str]) -> Figure | None:
    """The configurations over the first two or three objectives, those of the front numbered; None without one."""
    from optuna.visualization.matplotlib import plot_pareto_front

    ranked = [one.mean for one in ranked_configurations(results, objectives)]
    front = [one.mean for one in pareto_front(results, objectives)]
    if not ranked:
        return None
    names = list(objectives)[:MAX_AXES]
    with _optuna_figure():
        axes = plot_pareto_front(
            _study(ranked, objectives), target_names=names, targets=lambda trial: trial.values[: len(names)]
        )
        figure = _figure_of(axes)
    axes.set_title(f"Pareto front: {len(front)} of {len(ranked)}")
    figure.set_size_inches(8, 5.6)
    if len(names) == 2:
        for name, axis, set_scale in ((names[0], axes.xaxis, axes.set_xscale), (names[1], axes.yaxis, axes.set_yscale)):
            values = np.array([result.values[name] for result in ranked], dtype=float)
            if values.min() > 0 and values.max() / values.min() > 30:
                set_scale("log")
            if name.endswith("_bytes"):
                axis.set_major_formatter(EngFormatter("B"))
        for result in front[:MAX_NAMED]:
            x, y = (result.values[name] or 0.0 for name in names)
            axes.annotate(f"#{result.number}", (x, y), (5, 5), textcoords="offset points", fontsize=7.5)
    return figure


@contextmanager
def _optuna_figure() -> Iterator[None]:
    """Keep Optuna's use of pyplot local: its style, its backend, and its warnings (experimental, one value on an axis)."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mpl.use("agg")
        yield


def _figure_of(axes: Axes) -> Figure:
    from matplotlib import pyplot

    figure = axes.get_figure(root=True)
    assert figure is not None
    pyplot.close(figure)  # pyplot would keep it
    figure.set_dpi(120)
    return figure


def _study(results: Sequence[TrialResult], objectives: Mapping[str, str], keys: Sequence[str] | None = None) -> Study:
    """Finished trials as an Optuna study in memory; outliers of a single objective are clipped.

    Whether a trial diverged would otherwise explain the whole variance, and take the whole range of colours.
    """
    import optuna

    if keys is None:
        keys = [key for key in results[0].params if all(key in result.params for result in results)]
    names = short_keys(keys)
    distributions = {names[key]: _distribution([result.params[key] for result in results]) for key in keys}
    values = np.array([[result.values[name] for name in objectives] for result in results], dtype=float)
    directions: Any = list(objectives.values())
    if len(directions) == 1:
        clip = np.minimum if directions[0] == "minimize" else np.maximum
        values = clip(values, outlier_limit(values[:, 0], directions[0]))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions)
    optuna.logging.set_verbosity(verbosity)
    for result, row in zip(results, values.tolist(), strict=True):
        params = {names[key]: result.params[key] for key in keys}
        for name, distribution in distributions.items():
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                params[name] = short_value(params[name])
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, values=row))
    return study


def _distribution(column: Sequence[Any]) -> BaseDistribution:
    """Text, and the few numbers of a grid, are categories; many numbers are a range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    levels = sorted(set(map(short_value, column)))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)
    if len(levels) <= MAX_LEVELS or not numeric or not np.isfinite(column).all():
        return CategoricalDistribution(levels)
    return FloatDistribution(min(column), max(column), log=is_log(np.array(column, dtype=float)))


def is_log(values: np.ndarray) -> bool:
    """Whether the values [N] are all positive and spread more evenly on a logarithmic scale."""
    known = np.unique(values)
    if len(known) < 3 or known[0] <= 0 or known[-1] / known[0] < LOG_RATIO:
        return False
    skew = [abs((np.median(part) - part[0]) / (part[-1] - part[0]) - 0.5) for part in (known, np.log10(known))]
    return bool(skew[1] < skew[0])


def outlier_limit(values: np.ndarray, direction: str) -> float:
    """The value beyond which one of `values` [N] is far worse than most, as of a diverged run; infinite if none is."""
    sign = 1 if direction == "minimize" else -1
    signed = sign * values
    limit = signed.min() + OUTLIER_FACTOR * (np.median(signed) - signed.min())
    return float(sign * (limit if len(signed) >= MIN_VALUES and signed.min() < limit < signed.max() else np.inf))
