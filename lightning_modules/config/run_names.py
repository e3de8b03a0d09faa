"""Names of runs and of columns, made of config keys and values."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

NAME_LIMIT = 250  # characters of a run name in MLflow
STUDY_NAME = re.compile(r"\w[\w .-]{0,99}")


def run_name(params: Mapping[str, object], keys: Sequence[str]) -> str:
    """The run name of a trial: ``lr=0.01 seed=3``, in the order of `keys`, at most `NAME_LIMIT` characters.

    A key that `params` lacks (one that depends on another choice) is left out.
    """
    names = short_keys(keys)
    name = " ".join(f"{names[key]}={short_value(params[key])}" for key in keys if key in params)
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


def study_mistakes(study: object) -> list[str]:
    """What is wrong with the name of a study."""
    good = study is None or STUDY_NAME.fullmatch(str(study))
    return [] if good else [f"study={study}: expected letters, digits, spaces, '_', '-' and '.', at most 100 of them"]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its shortest tail that no other key has, for names and tables.

    >>> short_keys(["optimizer.lr", "model.dropout", "head.dropout"])
    {'optimizer.lr': 'lr', 'model.dropout': 'model.dropout', 'head.dropout': 'head.dropout'}
    """
    tails = {key: [key[match.end() :] for match in re.finditer(r"^|[./]", key)][::-1] for key in keys}
    count = Counter(tail for of_key in tails.values() for tail in of_key)
    return {key: next((tail for tail in of_key if count[tail] == 1), key) for key, of_key in tails.items()}


def short_value(value: object) -> str:
    """A value as it is typed, floats with at most 6 digits: ``0.3``, ``1e-5``, ``true``, ``null``, ``[64,32]``."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(short_value(item) for item in value) + "]"
    return " ".join(str(value).split())
