"""Fits the preparation of table columns on the training part with scikit-learn's transformers, and keeps plain values.

Longer than 200 lines: each kind of column takes a few.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from sklearn import preprocessing
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.data.table_file import ROWS, list_names
from lightning_modules.zoo.data.table_modules import (
    DateColumns,
    LookupColumn,
    NumberColumns,
    OneHotColumn,
    PreparedTable,
    SlotColumn,
    category_rows,
    fold_codes,
    yeo_johnson,
)
from lightning_modules.zoo.data.table_settings import MAX_CATEGORIES, ColumnSettings, warn_useless

QUANTILES = 256
LARGEST = float(np.finfo(np.float64).max)
TARGET_FOLDS = 5


def fit_table(
    x: Tensor, y: Tensor, train: Tensor, categories: Mapping[str, Sequence[str]], dates: Sequence[str],
    settings: Mapping[str, ColumnSettings],
) -> PreparedTable:  # fmt: skip
    """Fit every column of the raw table x float64 [N, F] on its rows `train`; `settings` are in the order of the columns.

    Codes of columns with target encoding are replaced in these rows by those of their fold.

    Raises UserError for columns without a value in the training part, or that cannot be scaled.
    """
    names = list(settings)
    parts = [list(settings[name].dates or ()) for name in dates]
    from_dates = DateColumns([names.index(name) for name in dates], parts)
    labels = [*names, *(f"{name}.{part}" for name, own in zip(dates, parts, strict=True) for part in own)]
    expanded = _columns(x, train, from_dates, len(labels))
    warn_useless(pd.DataFrame(expanded[: len(names)].T, columns=names))
    columns = [k for k, label in enumerate(labels) if label not in categories and label not in dates]
    owners = [settings[labels[k]] if k < len(names) else settings[labels[k].rpartition(".")[0]] for k in columns]
    numbers = _fit_numbers(expanded, columns, owners, labels)
    encoders = [
        _fit_category(x, y, train, names.index(name), len(known), settings[name], name)
        for name, known in sorted(categories.items(), key=lambda item: settings[item[0]].categories == "embedding")
    ]
    digest = hashlib.sha256(json.dumps({name: asdict(own) for name, own in settings.items()}).encode()).digest()
    return PreparedTable(from_dates, numbers, nn.Sequential(*encoders), list(digest))


def _columns(x: Tensor, train: Tensor, from_dates: DateColumns, width: int) -> np.ndarray:
    """Return the columns [width, n] of the training part and of its dates; the values of each are contiguous."""
    columns = torch.empty(width, len(train), dtype=x.dtype)
    for place, index in zip(columns.split(ROWS, 1), train.split(ROWS), strict=True):
        place.copy_(from_dates(x[index]).T)
    return columns.numpy()


def _fit_numbers(
    x: np.ndarray, columns: Sequence[int], settings: Sequence[ColumnSettings], labels: Sequence[str]
) -> NumberColumns:
    fitted: list[dict[str, float]] = []
    quantiles: dict[int, np.ndarray] = {}
    powers: dict[int, float] = {}
    for place, (column, own) in enumerate(zip(columns, settings, strict=True)):
        try:
            grid, power, found = _fit_number(x[column], own)
        except ValueError as error:
            raise UserError(f"column '{labels[column]}' in the training part: {error}") from error
        fitted.append(found)
        quantiles |= {place: grid} if grid is not None else {}
        powers |= {place: power} if power is not None else {}
    counts = [(labels[column], found.get("clipped")) for column, found in zip(columns, fitted, strict=True)]
    if clipped := [f"{label} ({count:.0f})" for label, count in counts if count]:
        warnings.warn(f"in the training part clip_z clips values of {list_names(clipped)}", stacklevel=2)
    owned = zip(columns, settings, strict=True)
    return NumberColumns(
        list(columns),
        log=[own.log for own in settings],
        powered=list(powers),
        power=list(powers.values()),
        ranked=list(quantiles),
        quantiles=np.stack(list(quantiles.values()), 1).tolist() if quantiles else [],
        indicators=[k for k, own in owned if own.missing == "indicator" and np.isnan(x[k]).any()],
        **{key: [found[key] for found in fitted] for key in ("fill", "low", "high", "shift", "scale")},
    )


def _fit_number(values: np.ndarray, own: ColumnSettings) -> tuple[np.ndarray | None, float | None, dict[str, float]]:
    """Return quantiles and power of a column, None if unused, and its other values by the names of `NumberColumns`."""
    if np.isnan(values).all():
        raise ValueError("it has no value; drop it with data.columns={NAME: drop}")
    found = {"fill": _fill(values, own), "low": -LARGEST, "high": LARGEST}
    v = np.where(np.isnan(values), found["fill"], values)
    v = np.sign(v) * np.log1p(np.abs(v)) if own.log else v
    if own.clip_z:
        found["low"], found["high"] = (float(v.mean() + side * own.clip_z * v.std()) for side in (-1, 1))
        found["clipped"] = float(((v < found["low"]) | (v > found["high"])).sum())
        v = v.clip(found["low"], found["high"])
    power = None
    if own.scaling == "power" and v.min() < v.max():
        power = float(preprocessing.PowerTransformer(standardize=False).fit(v[:, None]).lambdas_[0])
        v = yeo_johnson(torch.from_numpy(v), torch.tensor(power, dtype=torch.float64)).numpy()
    found["shift"], found["scale"] = (float(value) for value in _shift_and_scale(v, own.scaling))
    if not (np.isfinite([found["shift"], found["scale"]]).all() and found["scale"] > 0):
        raise ValueError("its values are too large or too small for float64; rescale the column")
    if own.scaling != "quantile":
        return None, power, found
    fitted = preprocessing.QuantileTransformer(n_quantiles=min(QUANTILES, len(v)), subsample=None).fit(v[:, None])
    return np.interp(np.linspace(0, 1, QUANTILES), fitted.references_, fitted.quantiles_[:, 0]), None, found


def _fill(values: np.ndarray, own: ColumnSettings) -> float:
    if isinstance(own.missing, int | float):
        return float(own.missing)
    if own.missing == "constant":
        return 0.0
    if own.missing == "median":
        return float(np.nanmedian(values))  # that of SimpleImputer, without sorting
    strategy = "most_frequent" if own.missing == "most_frequent" else "mean"
    return float(SimpleImputer(strategy=strategy).fit(values[:, None]).statistics_[0])


def _shift_and_scale(v: np.ndarray, scaling: str) -> tuple[np.ndarray | float, np.ndarray | float]:
    if scaling in ("none", "quantile"):
        return 0.0, 1.0
    if scaling == "normalise":
        fitted = preprocessing.MinMaxScaler().fit(v[:, None])
        return fitted.data_min_[0], fitted.data_range_[0] or 1.0
    if scaling == "robust":
        robust = preprocessing.RobustScaler().fit(v[:, None])
        return robust.center_[0], robust.scale_[0]
    standard = preprocessing.StandardScaler().fit(v[:, None])
    return standard.mean_[0], standard.scale_[0]


def _fit_category(
    x: Tensor, y: Tensor, train: Tensor, column: int, count: int, own: ColumnSettings, name: str
) -> OneHotColumn | LookupColumn:
    codes = x[train, column]
    trained, counts = codes[~codes.isnan()].unique(return_counts=True)
    if not len(trained):
        raise UserError(
            f"column '{name}' has no value in the training part; drop it with data.columns={{{name}: drop}}"
        )
    slot = {int(code): place for place, code in enumerate(trained.tolist())}
    if own.missing == "most_frequent":
        slot[count] = int(counts.argmax())
    elif codes.isnan().any():
        slot[count] = len(trained)
    unseen = max(slot.values()) + 1
    slots = [slot.get(code, unseen) for code in range(count + 2)]
    if own.categories == "one_hot":
        if unseen >= MAX_CATEGORIES:
            raise UserError(
                f"column '{name}' has {len(trained)} categories, too many for one_hot: set "
                f"data.columns={{{name}: {{categories: target}}}}, or embedding, or drop the column"
            )
        return OneHotColumn(column, slots)
    if own.categories == "embedding":
        return SlotColumn(column, slots)
    if own.categories == "target":
        return _fit_target(x, y, train, column, np.array(slots), own)
    values = np.array(slots, np.float64)[:, None]
    shift, scale = _moments(values[category_rows(codes, count)], own)
    return LookupColumn(column, ((values - shift) / scale).tolist())


def _moments(trained: np.ndarray, own: ColumnSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of encoded training samples; 0 and 1 without scaling."""
    if own.scaling == "none":
        return np.zeros(1), np.ones(1)
    fitted = preprocessing.StandardScaler().fit(trained)
    return fitted.mean_, fitted.scale_


def _fit_target(
    x: Tensor, y: Tensor, train: Tensor, column: int, slots: np.ndarray, own: ColumnSettings
) -> LookupColumn:
    """Fit the mean of the target by category (Micci-Barreca 2001), for training samples on the other folds."""
    count, codes = len(slots) - 2, x[train, column]
    given = slots[category_rows(codes, count)][:, None]
    targets = _target_columns(y[train])
    folds = KFold(min(TARGET_FOLDS, len(train)), shuffle=True, random_state=0)
    fold, tables = torch.zeros(len(train)), []
    for number, (rest, held_out) in enumerate(folds.split(given)):
        fold[torch.from_numpy(held_out)] = number
        tables.append(_encode_target(given[rest], targets[rest], slots[:-1]))
    coded = fold_codes(codes, fold.double(), count)
    values, by_fold = _encode_target(given, targets, slots), np.concatenate(tables)
    every = np.concatenate([values, by_fold])
    shift, scale = _moments(every[category_rows(coded, count, len(by_fold))], own)
    x[train, column] = coded
    return LookupColumn(column, ((values - shift) / scale).tolist(), ((by_fold - shift) / scale).tolist())


def _target_columns(y: Tensor) -> np.ndarray:
    """Return the columns whose means encode a category: the values, or for more than two classes one column for each."""
    if y.ndim > 1:
        raise UserError("data.categories=target needs one target: use one_hot or ordinal")
    if y.is_floating_point():
        return y[:, None].double().numpy()
    classes = range(int(y.max()) + 1)
    return np.stack([(y == label).double().numpy() for label in (classes if len(classes) > 2 else [1])], 1)


def _encode_target(given: np.ndarray, targets: np.ndarray, slots: np.ndarray) -> np.ndarray:
    encoders = (preprocessing.TargetEncoder(target_type="continuous").fit(given, target) for target in targets.T)
    return np.concatenate([encoder.transform(slots[:, None]) for encoder in encoders], 1)
