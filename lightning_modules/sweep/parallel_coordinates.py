"""All trials of a sweep as lines over parallel axes: one axis for each swept key, and the objective at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from lightning_modules.report.figures import GRID, INK, blank_figure
from lightning_modules.report.numbers import format_number
from lightning_modules.sweep.plot_axis import Axis, axis, measure
from lightning_modules.sweep.ranking import ranked_trials
from lightning_modules.sweep.trial_names import short_keys
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.sweep.trial_table import status_line

WIDEST = 26.0  # inches
FAN = 0.028  # how far the lines that share a place are spread to either side of it
OTHERS, BEST = "#CCCCCC", "#D55E00"
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}


def parallel_coordinates(children: Sequence[TrialResult], objective: str, direction: str) -> Figure | None:
    """Draw each FINISHED child as a line coloured by the objective, the best one on top, all others thin and grey.

    Args:
        direction: ``minimize`` or ``maximize``.

    Returns:
        None where no child has finished.
    """
    ranked = ranked_trials(children, {objective: direction})
    if not ranked:
        return None
    keys = list(dict.fromkeys(key for child in children for key in child.params))
    numbers = {child.number for child in ranked}
    grey = [child for child in children if child.number not in numbers and child.params]
    shown = grey + ranked[::-1]  # what is drawn later lies on top
    sides = [axis([_value(child, key) for child in shown]) for key in keys]
    sides.append(measure([child.values.get(objective) for child in shown], len(grey), direction))
    figure = blank_figure(min(1.75 * len(sides) + 1.2, WIDEST), 5.2)
    axes = figure.add_subplot()
    places = np.stack([_fanned(side) for side in sides], axis=1)
    palette = _palette(direction)
    _draw_lines(axes, places, len(grey), palette)
    _draw_axes(axes, sides, [*short_keys(keys).values(), objective])
    bar = np.linspace(0, 1, 256)[:, None]
    axes.imshow(bar, extent=(len(keys), len(keys) + 0.06, 0, 1), cmap=palette, origin="lower", aspect="auto", zorder=4)
    title = f"Best {objective} {format_number(ranked[0].values[objective])}: {ranked[0].name}"
    axes.set_title(_two_lines(title, len(sides)), loc="left", color=BEST, fontsize=10, fontweight="bold", pad=26)
    axes.set_xlabel(f"{status_line(children)}{'; grey: not finished' * bool(grey)}", color=INK, fontsize=9, loc="left")
    return figure


def _value(child: TrialResult, key: str) -> Any:
    """None only where the child lacks the key; a null is a word like others."""
    return "null" if key in child.params and child.params[key] is None else child.params.get(key)


def _palette(direction: str) -> Colormap:
    """Dark is good; without the palest end, that white paper swallows."""
    shades = colormaps["viridis"](np.linspace(0, 0.93, 256))
    return ListedColormap(shades if direction == "minimize" else shades[::-1])


def _fanned(side: Axis) -> np.ndarray:
    """Spread lines that share a place, in the order in which they are drawn, so that one sees how many there are."""
    places = side.places.copy()
    if side.discrete:
        for place in np.unique(places[~np.isnan(places)]):
            same = np.flatnonzero(side.places == place)
            places[same] += np.linspace(-FAN, FAN, len(same)) * min(1.0, len(same) / 8) if len(same) > 1 else 0
    return places


def _draw_lines(axes: Axes, places: np.ndarray, greys: int, palette: Colormap) -> None:
    """Draw `places` [N, axes]: first the grey ones, then the others with the best last."""
    across = np.broadcast_to(np.arange(places.shape[1]), places.shape)
    segments = np.stack([across, places], axis=2)
    width = float(np.clip(30 / math.sqrt(len(places)) / 4, 0.7, 1.8))
    axes.add_collection(LineCollection(list(segments[:greys]), colors=OTHERS, linewidths=0.7, zorder=1))
    colours = palette(places[greys:, -1])
    axes.add_collection(
        LineCollection(list(segments[greys:-1]), colors=colours[:-1], linewidths=width, alpha=0.8, zorder=2)
    )
    axes.plot(*segments[-1].T, color=BEST, linewidth=2.8, marker="o", markersize=5, zorder=5)


def _draw_axes(axes: Axes, sides: Sequence[Axis], names: Sequence[str]) -> None:
    last = len(sides) - 1
    for x, (side, name) in enumerate(zip(sides, names, strict=True)):
        axes.axvline(x, color=INK, linewidth=1, zorder=3)
        weight = "bold" if x == last else "normal"
        axes.text(x, 1.07, _wrapped(name), ha="center", va="bottom", color=INK, fontsize=9, fontweight=weight)
        place, align = (x + 0.08, "left") if x == last else (x - 0.04, "right")
        for y, label in side.ticks:
            axes.text(place, y, label, ha=align, va="center", color=INK, fontsize=7.5, bbox=LABEL, zorder=6)
    axes.set_xlim(-0.45, last + 0.45)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)
        spine.set_visible(False)


def _wrapped(name: str, most: int = 16) -> str:
    """Break a long name where its parts join."""
    head, dot, tail = name.rpartition("." if "." in name else "/")
    return f"{head}{dot}\n{tail}" if len(name) > most and head else name


def _two_lines(title: str, axes_count: int) -> str:
    import textwrap

    lines = textwrap.wrap(title, max(50, 24 * axes_count))
    return "\n".join([*lines[:1], *(f"{lines[1]} …" if len(lines) > 2 else line for line in lines[1:2])])
