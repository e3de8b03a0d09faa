"""Number formats of tables and reports."""

import math
from collections.abc import Callable, Iterable

import numpy as np

EMPTY = "–"
NumberFormatter = Callable[..., str]


def number_formatter(unit: str, *seen: float | None) -> NumberFormatter:
    """A formatter for all numbers of one claim: those in `seen` and their differences.

    Percentages have two decimals; other numbers have five digits of the largest number seen, but at most four decimals.
    A number that would be rounded to zero keeps two digits; a mere rounding error of the largest number is zero.
    ``sign=True`` adds a plus.
    """
    largest = max((abs(value) for value in seen if value is not None and math.isfinite(value)), default=0.0) or 1.0
    digits = math.floor(math.log10(largest))
    decimals = 2 if unit == "%" else max(0, min(4, 4 - digits))
    usual = "#.2g" if digits < -2 else f".{decimals}f"

    def write(value: float | None, sign: bool = False) -> str:
        if value is None:
            return EMPTY
        if abs(value) < 1e-12 * largest:
            value = 0.0
        is_visible = value == 0 or 0.5 * 10**-decimals <= abs(value)
        form = ".5g" if abs(value) >= 1e7 else usual if is_visible else "#.2g"
        text = format(value, form) if value or decimals < 4 else "0"
        return f"+{text}" if sign and value > 0 else text

    return write


def spread_formatter(stds: Iterable[float | None], means: Iterable[float | None]) -> NumberFormatter:
    """A formatter with as many decimals as give the median standard deviation two digits."""
    spreads = sorted(std for std in stds if std)
    largest = max((abs(mean) for mean in means if mean is not None), default=0.0)
    decimals = 1 - math.floor(math.log10(spreads[len(spreads) // 2])) if spreads else 4
    usual = f".{min(max(decimals, 2), 8)}f" if largest < 1e6 else ".5g"

    def write(value: float | None, sign: bool = False) -> str:
        if value is None:
            return EMPTY
        return f"{'+' if sign and value > 0 else ''}{value:{usual}}"

    return write


def format_interval(ends: tuple[float | None, float | None] | None, write: NumberFormatter, sign: bool = False) -> str:
    """``[0.91, 0.93]``; empty if an end is missing."""
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f"[{write(ends[0], sign=sign)}, {write(ends[1], sign=sign)}]"


def format_p(p: float | None) -> str:
    """A p-value with four decimals."""
    return EMPTY if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def shortest_decimal(value: float | None) -> float | None:
    """A float32 that became a float as its shortest decimal, 0.8999999761581421 as 0.9; anything else as it is."""
    with np.errstate(over="ignore"):
        single = np.float32(math.nan if value is None else value)
    return float(str(single)) if float(single) == value and not float(single).is_integer() else value


def format_number(value: float | None) -> str:
    """Four digits; integers and large numbers in full; empty without a value."""
    if value is None or math.isnan(value):
        return "" if value is None else "nan"
    return f"{value:,.0f}" if value.is_integer() or 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def format_duration(seconds: float | None) -> str:
    """Two digits: ``48 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return EMPTY
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_exact_duration(seconds: float | None) -> str:
    """To the second: ``4.2 s``, ``3:05 min``, ``2:03:05 h``; empty without a value."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
