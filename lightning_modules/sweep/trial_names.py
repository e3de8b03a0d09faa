"""What the trials of a sweep, their keys and their values are called."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

NAME_LIMIT = 250  # characters that MLflow keeps of a run's name


def run_name(params: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Name a run by what was swept, in the order of `keys`: ``lr=0.01 seed=3``.

    A key is called by its last component, or by as many of the last ones as tell it from the other keys. A key
    that `params` lacks (a choice made it meaningless) is left out. At most 250 characters.
    """
    called = short_keys(keys)
    name = " ".join(f"{called[key]}={short_value(params[key])}" for key in keys if key in params)
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return what each key is called in names and tables: its shortest tail that no other key has.

    >>> short_keys(["optimizer.lr", "model.dropout", "head.dropout"])
    {'optimizer.lr': 'lr', 'model.dropout': 'model.dropout', 'head.dropout': 'head.dropout'}
    """
    return {key: next(tail for tail in _tails(key) if _is_alone(tail, key, keys)) for key in keys}


def _tails(key: str) -> list[str]:
    starts = [match.end() for match in re.finditer(r"[./]", key)]
    return [key[start:] for start in reversed(starts)] + [key]


def _is_alone(tail: str, key: str, keys: Sequence[str]) -> bool:
    return tail == key or not any(tail in _tails(other) for other in keys if other != key)


def short_value(value: Any) -> str:
    """A value as one would type it, floats with at most 6 digits: ``0.3``, ``1e-5``, ``true``, ``null``, ``[64,32]``."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(short_value(item) for item in value) + "]"
    return " ".join(str(value).split())
