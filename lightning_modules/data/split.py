"""Splits into train, validation and test, as a function of the labels and a seed, without listed samples.

Random numbers come from NumPy's RandomState, whose stream is stable across NumPy versions: a recorded split can be
reproduced years later. Longer than 200 lines: a function for each rule of a split.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.labels import class_counts, class_label

TEST, VAL, FOLD, SUBSAMPLE = range(4)  # one independent stream of the split seed for each decision


@dataclass(frozen=True)
class SplitPlan:
    """The split settings of `InMemoryData`. Raises UserError if they contradict each other."""

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    folds: int | None = None
    fold: int | None = None
    fraction: float = 1.0
    per_class: int | None = None

    def __post_init__(self) -> None:
        if (total := self.val_fraction + self.test_fraction) >= 1:
            raise UserError(f"data.val_fraction + data.test_fraction = {total:g} leaves nothing to train on")
        if self.per_class is not None and self.fraction != 1:
            raise UserError("data.fraction and data.per_class both reduce the training part: set only one of them")
        if (self.folds is None) != (self.fold is None):
            raise UserError(f"data.folds={self.folds} and data.fold={self.fold}: set both or neither")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise UserError(f"data.fold={self.fold}: expected an integer in 0..{self.folds - 1}")


def split(
    y: Tensor, plan: SplitPlan, test_count: int | None, val: Tensor | None = None, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Return sorted int64 indices of "train", "val" and "test".

    `y` holds the labels without the official test part; int64 labels are stratified, floats are not. With
    `test_count`, the official test part is kept with its own indices, and a fold is the validation part. Otherwise
    a fold is the test part, and `val_fraction` applies to the rest. `val` is an official validation part, used
    without folds.

    Raises UserError if a class has too few samples for the plan, or a part becomes empty.
    """
    pool = torch.arange(len(y))
    if val is not None and not plan.folds:
        pool = remove(pool, val)
    base = len(pool)
    test = torch.arange(test_count or 0)
    if plan.folds and plan.fold is not None:
        part = _fold(y, plan.folds, plan.fold, plan.split_seed, names)
        pool = remove(pool, part)
        val, test = (None, part) if test_count is None else (part, test)
        base = len(pool)
    elif test_count is None:
        test = _draw(y, pool, "test_fraction", plan.test_fraction, base, [plan.split_seed, TEST])
        pool = remove(pool, test)
    if val is None:
        val = _draw(y, pool, "val_fraction", plan.val_fraction, base, [plan.split_seed, VAL])
        pool = remove(pool, val)
    train = subsample(y, pool, plan, names)
    check_trained_classes(y, train, names)
    return {"train": train, "val": val.sort().values, "test": test}


def remove(pool: Tensor, part: Tensor) -> Tensor:
    """Return the indices `pool` without those of `part`."""
    return pool[~torch.isin(pool, part)]


def _stratified_order(y: Tensor, pool: Tensor, stream: list[int]) -> Tensor:
    """Return `pool` in random order, then sorted by class if there are classes: every k-th is a stratified sample."""
    shuffled = pool[torch.from_numpy(np.random.RandomState(stream).permutation(len(pool)))]
    return shuffled if y.is_floating_point() else shuffled[y[shuffled].argsort(stable=True)]


def _fold(y: Tensor, folds: int, fold: int, seed: int, names: Sequence[str] | None) -> Tensor:
    if folds > len(y):
        raise UserError(f"data.folds={folds} is more than the {len(y)} samples")
    for label, count in () if y.is_floating_point() else class_counts(y):
        if count < folds:
            text = f"class {class_label(label, names)} has {count} samples, fewer than data.folds={folds}"
            raise UserError(f"{text}: use at most {count} folds")
    return _stratified_order(y, torch.arange(len(y)), [seed, FOLD])[fold::folds].sort().values


def _draw(y: Tensor, pool: Tensor, key: str, fraction: float, base: int, stream: list[int]) -> Tensor:
    """Draw ``fraction * base`` of `pool`, stratified: each class deviates by less than one sample from its share."""
    count = round(fraction * base)
    if fraction > 0 and not 0 < count < len(pool):
        raise UserError(
            f"data.{key}={fraction} of {base} samples is {count}, drawn from the {len(pool)} left: this part or the "
            f"training part would be empty; change data.{key} (0 means no such part)"
        )
    if count == 0:
        return pool[:0]
    ordered = _stratified_order(y, pool, stream)
    start = np.random.RandomState(stream).random_sample()
    places = ((np.arange(count) + start) * len(pool) / count).astype(np.int64)
    return ordered[torch.from_numpy(places)].sort().values


def subsample(y: Tensor, pool: Tensor, plan: SplitPlan, names: Sequence[str] | None) -> Tensor:
    """Return the part of `pool` that `fraction` or `per_class` leaves."""
    if plan.per_class is None:
        if plan.fraction == 1:
            return pool
        drawn = _draw(y, pool, "fraction", plan.fraction, len(pool), [plan.split_seed, SUBSAMPLE])
        return _add_missing_classes(y, pool, drawn, plan.split_seed)
    if y.is_floating_point():
        raise UserError(f"data.per_class={plan.per_class} requires classes; this data set has none: use data.fraction")
    ordered = _stratified_order(y, pool, [plan.split_seed, SUBSAMPLE])
    counts = class_counts(y[ordered])
    for label, count in counts:
        if count < plan.per_class:
            raise UserError(
                f"data.per_class={plan.per_class}: class {class_label(label, names)} has only {count} training samples"
            )
    return torch.cat([part[: plan.per_class] for part in ordered.split([n for _, n in counts])]).sort().values


def _add_missing_classes(y: Tensor, pool: Tensor, drawn: Tensor, seed: int) -> Tensor:
    """Add one sample of each class that a small fraction has missed."""
    if y.is_floating_point():
        return drawn
    missing = set(y[pool].tolist()) - set(y[drawn].tolist())
    ordered = _stratified_order(y, pool, [seed, SUBSAMPLE])
    added = [ordered[y[ordered] == label][:1] for label in sorted(missing)]
    return torch.cat([drawn, *added]).sort().values


def check_trained_classes(y: Tensor, train: Tensor, names: Sequence[str] | None) -> None:
    """Raise UserError if the training part is empty or lacks a class."""
    if len(train) == 0:
        raise UserError("the training part is empty: lower data.val_fraction or data.test_fraction")
    if y.is_floating_point():
        return
    trained = y[train].unique()
    for label, count in class_counts(y):
        if label not in trained:
            raise UserError(
                f"class {class_label(label, names)} has too few samples ({count}) for the training part: "
                "change data.val_fraction, data.test_fraction or data.fraction, or use data.per_class"
            )


def drop_excluded(
    splits: dict[str, Tensor], file: str | Path, official_test: bool, exclude_test: bool, content: Callable[[], str]
) -> dict[str, Tensor]:
    """Remove the listed samples from training and validation; all other samples stay in their part.

    Args:
        splits: int64 indices of "train", "val" and "test".
        file: JSON with ``content`` (the fingerprint of the inspected raw values) and ``excluded``: a list of
            ``{"index": i, "part": "pool" or "test", "why": …}``; "test" indices count within an official test part.
        official_test: whether there is an official test part with its own indices.
        exclude_test: also remove them from the test part; test results are then no longer comparable with others.
        content: returns the fingerprint of the current raw values.

    Raises UserError if the file is missing, damaged or of different data, or no training sample is left.
    """
    path = Path(file).expanduser()
    listed = _read_exclusions(path, content)
    pool, tested = (
        torch.tensor([i for part, i in listed if part == kind], dtype=torch.int64) for kind in ("pool", "test")
    )
    kept = {part: remove(splits[part], pool) for part in ("train", "val")}
    tested = tested if official_test else pool
    kept["test"] = remove(splits["test"], tested) if exclude_test else splits["test"]
    if not len(kept["train"]):
        raise UserError(f"data.exclude={path} leaves nothing to train on")
    return kept


def _read_exclusions(path: Path, content: Callable[[], str]) -> list[tuple[str, int]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        listed = [(str(entry["part"]), int(entry["index"])) for entry in record["excluded"]]
        inspected = str(record["content"])
    except OSError as error:
        raise UserError(f"data.exclude={path}: {error.strerror}; `touchstone data clean` writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.exclude={path} is damaged ({error!r}); `touchstone data clean` writes one") from error
    if wrong := {part for part, _ in listed} - {"pool", "test"}:
        raise UserError(f"data.exclude={path}: expected pool or test as the part of a sample, got {sorted(wrong)[0]}")
    if inspected != content():
        raise UserError(
            f"data.exclude={path} was created for different data (fingerprint {inspected}, current data {content()})"
        )
    return listed
