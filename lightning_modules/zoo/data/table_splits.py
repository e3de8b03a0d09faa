"""Splits of a table by a column: its groups stay together, or the latest rows are tested, so that nothing leaks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.split import TEST, SplitPlan, check_trained_classes, subsample
from lightning_modules.data.table_input import category_names, encode_dates


def split_rows(
    y: Tensor, plan: SplitPlan, column: pd.Series, by_time: bool, names: Sequence[str] | None
) -> dict[str, Tensor]:
    """Return sorted int64 indices of "train", "val" and "test"; rows with the same value of `column` are in one part.

    By time the latest rows are the test part, those before them validation; fold k is tested on the part k + 2 of
    folds + 1 in order, and trained on those before it. Otherwise groups are drawn. Parts deviate from their fractions as
    little as the groups allow.

    Raises UserError if a value is missing or no date, if there are too few groups, or a class has too few samples.
    """
    unit = np.unique(_values(column, by_time), return_inverse=True)[1]
    if not by_time:
        unit = np.random.RandomState([plan.split_seed, TEST]).permutation(unit.max() + 1)[unit]
    pool = np.argsort(unit, kind="stable")
    count, first, last = len(pool), 1 - plan.test_fraction, 1.0
    if plan.folds and plan.fold is not None:
        first, last = ((plan.fold + by_time + end) / (plan.folds + by_time) for end in (0, 1))
    start, end = (_nearest_start(unit[pool], share * count) for share in (first, last))
    test, pool = pool[start:end], pool[:start] if by_time else np.concatenate([pool[:start], pool[end:]])
    base = len(pool) if plan.folds else count
    start = _nearest_start(unit[pool], len(pool) - plan.val_fraction * base)
    val, pool = pool[start:], pool[:start]
    empty = not len(pool) or (not len(test) and first < 1) or (not len(val) and plan.val_fraction > 0)
    if empty:
        raise UserError(
            f"data.split_by={column.name}: its {unit.max() + 1} different values are too few for this split: change "
            "data.test_fraction, data.val_fraction (0 means no such part) or data.folds"
        )
    parts = {name: torch.from_numpy(np.sort(part)) for name, part in (("train", pool), ("val", val), ("test", test))}
    train = subsample(y, parts["train"], plan, names)
    check_trained_classes(y, train, names)
    return parts | {"train": train}


def _values(column: pd.Series, by_time: bool) -> np.ndarray:
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0]) + 1
        raise UserError(f"data.split_by={column.name} has missing values, the first is row {row}")
    if not by_time:
        return np.array(category_names(column))
    numbers = pd.api.types.is_numeric_dtype(column)
    return np.array(column if numbers else encode_dates(column, f"data.split_by={column.name}"))


def _nearest_start(unit: np.ndarray, rows: float) -> int:
    """Return the position nearest to `rows` at which a unit begins or the last one ends."""
    starts = np.flatnonzero(np.diff(unit, prepend=-1, append=-2))
    return int(starts[np.abs(starts - rows).argmin()])
