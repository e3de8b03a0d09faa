"""One axis of a picture of many runs: where each value lies on it between 0 and 1, and which ticks it gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_modules.sweep.trial_names import short_value

MOST_LEVELS = 12  # different numbers up to which each has a tick of its own
MOST_LABELS = 24  # different words up to which each has its label
NEAREST = 0.05  # two ticks closer than that would overlap
LOG_RATIO = 8.0  # numbers that span less look the same on both scales
LONGEST = 18  # characters of a label
TAIL, FEW = (
    4.0,
    8,
)  # of so many values, those are far worse that are so many times further from the best than the median


class Axis(NamedTuple):
    """Attributes:
    places: [N] between 0 and 1; NaN where a run lacks the value.
    ticks: (place, label), upwards.
    discrete: whether many runs share few places.
    """

    places: np.ndarray
    ticks: list[tuple[float, str]]
    discrete: bool


def axis(values: Sequence[Any]) -> Axis:
    """Lay out the values (None where a run has none): numbers to scale, everything else as evenly spaced levels.

    Numbers get a logarithmic scale where that spreads them more evenly. Few numbers that would crowd on
    either scale (0, 1e-4, 1e-3) become levels too.
    """
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return _numeric(values)
    return _levels([None if value is None else short_value(value) for value in values])


def _numeric(values: Sequence[float | None]) -> Axis:
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    numbers[~np.isfinite(numbers)] = np.nan
    levels = np.unique(numbers[~np.isnan(numbers)])
    if len(levels) == 0:
        return Axis(numbers, [], False)
    scale = np.log10 if is_log(numbers) else np.asarray
    low, high = scale(levels[0]), scale(levels[-1])
    if low == high:
        return Axis(numbers * 0 + 0.5, [(0.5, _label(levels[0]))], True)
    places, at = (scale(numbers) - low) / (high - low), (scale(levels) - low) / (high - low)
    if len(levels) > MOST_LEVELS:
        return Axis(places, _ticks(levels[0], levels[-1], scale), False)
    if np.diff(at).min() < NEAREST:
        return _levels([None if np.isnan(number) else float(number) for number in numbers])
    return Axis(places, [(float(p), _label(v)) for p, v in zip(at, levels, strict=True)], True)


def is_log(numbers: np.ndarray) -> bool:
    """Whether the numbers [N] (NaN is left out) are all positive and lie more evenly on a logarithmic scale."""
    known = np.unique(numbers[np.isfinite(numbers)])
    if len(known) < 3 or known[0] <= 0 or known[-1] / known[0] < LOG_RATIO:
        return False
    middles = [abs((np.median(part) - part[0]) / (part[-1] - part[0]) - 0.5) for part in (known, np.log10(known))]
    return bool(middles[1] < middles[0])


def _ticks(low: float, high: float, scale: Any) -> list[tuple[float, str]]:
    """Round numbers inside of the range, and its ends where they are not close to one."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if scale is np.log10:
        wide = high / low > 100
        candidates = LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12).tick_values(low, high)
    else:
        candidates = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    found = [float(value) for value in candidates if low <= value <= high]
    places = [float((scale(value) - scale(low)) / (scale(high) - scale(low))) for value in found]
    return [(place, _label(value)) for place, value in zip(places, found, strict=True)]


def _levels(values: Sequence[Any]) -> Axis:
    names = sorted({value for value in values if value is not None})
    place = {name: 0.5 if len(names) == 1 else i / (len(names) - 1) for i, name in enumerate(names)}
    every = -(-len(names) // MOST_LABELS)
    ticks = [(place[name], _label(name)) for name in names[::every]]
    places = np.array([np.nan if value is None else place[value] for value in values], dtype=float)
    return Axis(places, ticks, True)


def _label(value: Any) -> str:
    """A number in whichever of 0.001 and 1e-3 is shorter; a word, its middle left out where it is long."""
    if isinstance(value, int | float):
        plain = short_value(float(value))
        digits, _, exponent = f"{value:.5e}".partition("e")
        scientific = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
        return scientific if len(scientific) < len(plain) and abs(value) < 1 else plain
    word = str(value)
    return word if len(word) <= LONGEST else f"{word[: LONGEST // 2]}…{word[-(LONGEST // 2 - 1) :]}"


def measure(values: Sequence[float | None], skipped: int, direction: str) -> Axis:
    """Lay out an objective to scale. Values beyond `far_off` share the end of the axis.

    Args:
        skipped: of the first so many values the range does not depend (they still lie on it).
    """
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    judged = numbers[skipped:]
    limit = far_off(judged, direction)
    low, high = judged.min(), judged.max()
    cut = bool(np.isfinite(limit))
    if cut:
        low, high = (low, limit) if direction == "minimize" else (limit, high)
    if low == high:
        return Axis(numbers * 0 + 0.5, [(0.5, _label(low))], True)
    ticks = _ticks(low, high, np.asarray)
    if cut:
        end, sign = (1.0, "≥") if direction == "minimize" else (0.0, "≤")
        ticks = [tick for tick in ticks if abs(tick[0] - end) > NEAREST] + [(end, f"{sign} {limit:.3g}")]
    return Axis(np.clip((numbers - low) / (high - low), 0, 1), ticks, False)


def far_off(values: np.ndarray, direction: str) -> float:
    """The value from which on one of `values` [N] is far worse than most, as of a run that diverged; infinite if none is."""
    sign = 1 if direction == "minimize" else -1
    judged = sign * values
    limit = judged.min() + TAIL * (np.median(judged) - judged.min())
    return float(sign * (limit if len(judged) >= FEW and judged.min() < limit < judged.max() else np.inf))
