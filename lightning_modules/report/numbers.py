"""Number formats of claims: 93.43 %, 87.302, 0.9367, 2.3e-07."""

import math
from collections.abc import Callable

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
    kind = "#.2g" if digits < -2 else f".{decimals}f"

    def write(value: float | None, sign: bool = False) -> str:
        if value is None:
            return EMPTY
        if abs(value) < 1e-12 * largest:
            value = 0.0
        fits = value == 0 or 0.5 * 10**-decimals <= abs(value)
        form = ".5g" if abs(value) >= 1e7 else kind if fits else "#.2g"
        text = format(value, form) if value or decimals < 4 else "0"
        return f"+{text}" if sign and value > 0 else text

    return write


def format_duration(seconds: float | None) -> str:
    """``48 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return EMPTY
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
