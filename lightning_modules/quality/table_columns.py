"""Columns of a table: what is missing, constant, repeated or far out in each, and the repaired table."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.table_file import SUFFIXES
from lightning_modules.quality.value_statistics import robust_z
from lightning_modules.zoo.data.table_settings import useless_columns


def describe_columns(data: InMemoryData, limit: float) -> list[dict[str, object]] | None:
    """Return kind, missing and distinct values, outliers (robust z of `limit`) and issue of each column; None if no table."""
    inputs = getattr(data, "inputs", None)
    if inputs is None or not inputs.columns:
        return None
    raw: Any = data.arrays.x
    table, found = inputs.frame(raw.numpy()), []
    issues = {name: f"equals {other}" if other else "constant" for name, other in useless_columns(table).items()}
    for name in inputs.columns:
        column = table[name]
        kind = "text" if name in inputs.categories else "date" if name in inputs.dates else "number"
        values = column.to_numpy(np.float64)[:, None] if kind == "number" and column.notna().any() else np.zeros((1, 1))
        found.append({
            "column": name, "kind": kind, "missing": int(column.isna().sum()), "distinct": int(column.nunique()),
            "outliers": int((robust_z(values) >= limit).sum()), "issue": issues.get(name, ""),
        })  # fmt: skip
    return found


def repaired_table(data: InMemoryData, excluded: Collection[int]) -> pd.DataFrame:
    """Return features and targets without constant and equal columns and `excluded` rows; missing values are filled.

    Values are filled and clipped as `data.missing` and `data.clip_z` say; missing text stays empty, except for
    ``most_frequent``.
    """
    columns = describe_columns(data, limit=np.inf)
    if columns is None:
        raise UserError(f"table: {data.name} is not a table: use data=tabular, or table=null")
    source: Any = data
    table = source.inputs.frame(source.arrays.x.numpy())
    if source.preparation:
        fitted = source.preprocess.numbers
        for place, position in enumerate(fitted.columns.tolist()):
            if position < len(columns):
                name, low, high = table.columns[position], float(fitted.low[place]), float(fitted.high[place])
                filled = table[name].fillna(float(fitted.fill[place]))
                table[name] = filled if fitted.log[place] else filled.clip(low, high)
        for name in source.inputs.categories:
            if source.preparation.settings[name].missing == "most_frequent":
                trained = table[name].iloc[source.splits["train"].numpy()]
                table[name] = table[name].fillna(trained.mode()[0])
    table = table.drop(columns=[column["column"] for column in columns if column["issue"]])
    y = source.arrays.y
    targets = [source.class_names[label] for label in y.tolist()] if source.class_names else y.numpy()
    table[source.targets or ["target"]] = pd.DataFrame(targets)
    return table.drop(index=list(excluded))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a .csv, .tsv or .parquet file. Raises UserError if it exists or cannot be written."""
    if path.exists() or path.suffix.lower() not in SUFFIXES:
        raise UserError(f"table={path}: expected a new file with suffix {', '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except OSError as error:
        raise UserError(f"table={path} cannot be written: {error.strerror}") from error
