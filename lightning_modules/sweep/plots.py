"""What mattered in a sweep, and what was traded for what: the importance of its keys, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes
from lightning_modules.sweep.plot_axis import MOST_LEVELS, far_off, is_log
from lightning_modules.sweep.ranking import pareto_trials, ranked_trials
from lightning_modules.sweep.trial_names import short_keys, short_value
from lightning_modules.sweep.trial_results import TrialResult

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

FEWEST = 4  # finished children below which importance is a guess
SEEDS = ("seed", "fold")  # swept to see the noise, not to find the best one
MOST_NAMED = 12  # members of the front that get their name into the picture
LONGEST_NAME = 30  # characters


def importances(children: Sequence[TrialResult], objective: str, direction: str) -> dict[str, float] | None:
    """Share of the objective's variance that each varying key explains, the largest first (fANOVA, Hutter et al. 2014).

    Values beyond `far_off` count as that: whether a run diverged would explain the whole variance otherwise. Keys
    that some finished child lacks cannot be judged and are left out.

    Returns:
        None with fewer than 4 finished children, or fewer than 2 varying keys, or values that are all equal.
    """
    finished = ranked_trials(children, {objective: direction})
    columns = {key: [child.params.get(key) for child in finished] for key in finished[0].params} if finished else {}
    varying = {
        key: values
        for key, values in columns.items()
        if all(key in child.params for child in finished) and len(set(map(short_value, values))) > 1
    }
    if len(finished) < FEWEST or len(varying) < 2:
        return None
    (targets,) = _columns(finished, objective)
    targets = (np.minimum if direction == "minimize" else np.maximum)(targets, far_off(targets, direction))
    if np.ptp(targets) == 0:
        return None
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = _study(varying, targets.tolist())
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _study(columns: Mapping[str, Sequence[Any]], values: Sequence[float]) -> Study:
    """The finished children as an Optuna study in memory."""
    import optuna

    described = {key: _distribution(column) for key, column in columns.items()}
    words = {key: isinstance(found, optuna.distributions.CategoricalDistribution) for key, found in described.items()}
    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    optuna.logging.set_verbosity(loudness)
    for row, value in enumerate(values):
        params = {key: short_value(column[row]) if words[key] else column[row] for key, column in columns.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=described, value=value))
    return study


def _distribution(column: Sequence[Any]) -> BaseDistribution:
    """Words, and the few numbers of a grid, are categories; many numbers are a range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    levels = sorted(set(map(short_value, column)))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)
    if len(levels) <= MOST_LEVELS or not numeric or not np.isfinite(column).all():
        return CategoricalDistribution(levels)
    return FloatDistribution(min(column), max(column), log=is_log(np.array(column, dtype=float)))


def importance(children: Sequence[TrialResult], objective: str, direction: str) -> Figure | None:
    """Draw `importances` as bars. A swept seed is the grey one: what is not above it may be noise."""
    shares = importances(children, objective, direction)
    if shares is None:
        return None
    called = short_keys(list(dict.fromkeys(key for child in children for key in child.params)))
    names, values = [called[key] for key in shares][::-1], list(shares.values())[::-1]
    noise = [key.rpartition(".")[2] in SEEDS for key in shares][::-1]
    figure = blank_figure(7, 1.5 + 0.38 * len(names))
    axes = figure.add_subplot()
    finished = len(ranked_trials(children, {objective: direction}))
    style_axes(axes, f"What {objective} depends on", f"share of the variance explained (fANOVA, {finished} runs)", "")
    axes.grid(visible=False, axis="y")
    axes.barh(names, values, color=["#AAAAAA" if grey else COLOURS[0] for grey in noise], height=0.66)
    for row, (value, grey) in enumerate(zip(values, noise, strict=True)):
        text = (f" {value:.0%}" if value >= 0.005 else " < 1%") + "  noise" * grey
        axes.text(value, row, text, va="center", color=INK, fontsize=8)
        if grey:
            axes.axvline(value, color="#AAAAAA", linestyle=":", linewidth=1.2, zorder=0)
    axes.set_xlim(0, max(values) * 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def pareto_front(children: Sequence[TrialResult], objectives: Mapping[str, str]) -> Figure | None:
    """Draw the finished children over the first two objectives, the front (over all objectives) joined and named.

    A third objective is the colour.

    Returns:
        None where no child has all values.
    """
    ranked, front = ranked_trials(children, objectives), pareto_trials(children, objectives)
    if not ranked:
        return None
    names = list(objectives)
    (x, y), third = names[:2], names[2] if len(names) > 2 else None
    figure = blank_figure(8, 5.6)
    axes = figure.add_subplot()
    arrows = {"minimize": "less is better", "maximize": "more is better"}
    title = f"Pareto front: {len(front)} of {len(ranked)} runs"
    style_axes(axes, title, f"{x} ({arrows[objectives[x]]})", f"{y} ({arrows[objectives[y]]})")
    inside = {child.number for child in front}
    others = [child for child in ranked if child.number not in inside]
    other_xs, other_ys = _columns(others, x, y)
    axes.scatter(other_xs, other_ys, s=16, color="#BBBBBB", linewidths=0, zorder=2)
    _draw_front(figure, axes, front, objectives, third)
    _scale(axes, ranked, x, y)
    axes.margins(0.16, 0.1)
    figure.draw_without_rendering()  # from here on it is known how wide a text is
    _name_front(axes, front, x, y, objectives)
    return figure


def _scale(axes: Axes, children: Sequence[TrialResult], x: str, y: str) -> None:
    """A logarithmic axis for sizes and the like, with units where the name says them."""
    for name, side, set_scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        values = _columns(children, name)[0]
        if values.min() > 0 and values.max() / values.min() > 30:
            set_scale("log")
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_minor_locator(NullLocator())
            side.set_major_formatter(lambda value, _: short_value(value))
        if name.endswith("_bytes"):
            side.set_major_formatter(EngFormatter("B"))


def _columns(children: Sequence[TrialResult], *objectives: str) -> list[np.ndarray]:
    return [np.array([child.values[name] for child in children], dtype=float) for name in objectives]


def _draw_front(
    figure: Figure, axes: Axes, front: Sequence[TrialResult], objectives: Mapping[str, str], third: str | None
) -> None:
    """Two objectives: stairs, that leave below or above them what nothing reaches; three: points alone."""
    xs, ys, *depth = _columns(front, *list(objectives)[: 3 if third else 2])
    if third is None:
        # Sorted from the best x on: the y of a member holds until the next one's x is paid.
        axes.step(xs, ys, where="post", color=COLOURS[1], linewidth=1.4, alpha=0.7, zorder=3)
        axes.scatter(xs, ys, s=38, color=COLOURS[1], zorder=4)
        return
    palette = "viridis" if objectives[third] == "minimize" else "viridis_r"  # dark is good
    points = axes.scatter(xs, ys, s=46, c=depth[0], cmap=palette, edgecolors=INK, linewidths=0.6, zorder=4)
    bar = figure.colorbar(points, ax=axes, aspect=30)
    bar.set_label(f"{third} ({objectives[third]})", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    if third.endswith("_bytes"):
        bar.ax.yaxis.set_major_formatter(EngFormatter("B"))


def _name_front(axes: Axes, front: Sequence[TrialResult], x: str, y: str, objectives: Mapping[str, str]) -> None:
    """Name as many members as there is room for, on the side that no run reaches; a long name is the trial's number."""
    left, low = objectives[x] == "minimize", objectives[y] == "minimize"
    taken: list[Any] = []
    for child in front:
        label = child.name if len(child.name) <= LONGEST_NAME else f"#{child.number}"
        text = axes.annotate(
            label,
            (child.values[x] or 0.0, child.values[y] or 0.0),
            xytext=(-5 if left else 5, -5 if low else 5),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if low else "bottom",
            fontsize=7.5,
            color=INK,
            zorder=5,
        )
        box = text.get_window_extent()
        if len(taken) >= MOST_NAMED or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
