"""Table input of a recorded model: columns are matched by name, text is encoded, and values are checked."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.table_file import list_names, to_array, to_numbers


@dataclass(frozen=True)
class TableInput:
    """The columns that a model was trained on, in order, and the dtype of its raw samples.

    `columns` is empty for models recorded without column names, whose columns are matched by position.

    Attributes:
        categories: the known values of each column of text, by the index of which it is encoded (-1: another value).
        dates: columns of dates, encoded as seconds since 1970.
        optional: columns that may have missing values, encoded as NaN.
    """

    columns: tuple[str, ...]
    dtype: torch.dtype
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dates: Sequence[str] = ()
    optional: Sequence[str] = ()

    @classmethod
    def of(cls, recorded: PlainDict) -> "TableInput | None":
        """Read the entry ``inputs`` of a checkpoint or an MLmodel; None if the model does not read tables."""
        found = recorded.get("inputs")
        prepared = {key: found[key] for key in ("categories", "dates", "optional") if key in found} if found else {}
        return cls(tuple(found["columns"]), getattr(torch, found["dtype"]), **prepared) if found else None

    def plain(self) -> PlainDict:
        """Return the plain values that `of` reads."""
        categories = {name: list(values) for name, values in self.categories.items()}
        prepared = {"categories": categories, "dates": list(self.dates), "optional": list(self.optional)}
        plain = {"columns": list(self.columns), "dtype": str(self.dtype).removeprefix("torch.")}
        return plain | {key: value for key, value in prepared.items() if value}

    def frame(self, x: np.ndarray) -> pd.DataFrame:
        """Return raw samples [N, F] as a table; categories and dates as text."""
        table = pd.DataFrame(x, columns=list(self.columns))
        for name, known in self.categories.items():
            codes = pd.Series(table[name])  # of training samples with target encoding: those of their fold
            codes = codes.where(codes < len(known) + 2, (codes - len(known) - 2) % (len(known) + 1))
            table[name] = codes.map(dict(enumerate(known)))
        for name in self.dates:
            table[name] = pd.to_datetime(table[name], unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S")
        return table

    def encode(self, table: pd.DataFrame, what: str) -> pd.DataFrame:
        """Return the columns as numbers. Raises UserError for values that are none, and for missing ones not `optional`."""
        codes = {name: encode_categories(table[name], known) for name, known in self.categories.items()}
        seconds = {name: encode_dates(table[name], f"{what}, column '{name}'") for name in self.dates}
        return to_numbers(table.assign(**codes, **seconds), what, self.optional)

    def samples(self, table: pd.DataFrame, what: str) -> Tensor:
        """Return raw samples [N, F] of a table with columns in any order; additional columns are ignored.

        A table without column names (0, 1, …) is matched by position. `what` names the table in messages.

        Raises UserError for missing columns, missing values and values that are not numbers.
        """
        nameless = list(table.columns) == list(range(len(table.columns))) and not set(self.columns) & {"0", 0}
        if not self.columns or nameless:
            reason = "it has no column names" if self.columns else "the model was recorded without column names"
            warnings.warn(f"{what}: {reason}: its columns are matched by position", stacklevel=3)
            if self.columns and len(table.columns) != len(self.columns):
                raise UserError(
                    f"{what} has {len(table.columns)} columns; the model expects {list_names(self.columns)}"
                )
        else:
            table = match_columns(table, self.columns, what)
        if self.columns:
            table = table.set_axis(list(self.columns), axis=1)
        return to_samples(self.encode(table, what), self.dtype, what)


def category_names(values: Iterable[object]) -> list[str | None]:
    """Return each value as text, None for a missing one; whole floats as integers: 2.0 is "2"."""
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return [None if pd.isna(value) else str(value).strip() for value in whole]


def encode_categories(column: pd.Series, known: Sequence[str]) -> pd.Series:
    """Return the index in `known` of each value, -1 for other values, NaN for missing ones."""
    index, (codes, values) = {name: code for code, name in enumerate(known)}, pd.factorize(column)
    found = [np.nan if name is None else index.get(name, -1) for name in category_names(values)]
    return pd.Series(np.array([*found, np.nan], np.float64)[codes], index=column.index)


def encode_dates(column: pd.Series, what: str) -> pd.Series:
    """Return dates (text in ISO 8601) as seconds since 1970, those without a time zone as UTC; NaN where they are missing.

    Raises UserError for other values.
    """
    try:
        if pd.api.types.is_numeric_dtype(column) and not column.isna().all():
            raise ValueError("they are numbers")
        dates = pd.to_datetime(column, format="ISO8601", utc=True)
        return (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{what}: expected dates such as 2024-05-31 or 2024-05-31T12:00: {error}") from error


def match_columns(table: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """Return the columns `names` of a table, in this order; a warning lists ignored columns.

    Raises UserError listing all missing columns; `what` names the table.
    """
    table = table.set_axis([str(name).strip() for name in table.columns], axis=1)
    if missing := [name for name in names if name not in table.columns]:
        raise UserError(f"{what}: missing columns: {list_names(missing)}; the model expects {list_names(names)}")
    if twice := [name for name in names if list(table.columns).count(name) > 1]:
        raise UserError(f"{what}: several columns have the name {list_names(twice)}")
    if extra := [name for name in table.columns if name not in set(names)]:
        warnings.warn(f"{what}: ignored columns that the model does not use: {list_names(extra)}", stacklevel=4)
    return table[list(names)]


def to_samples(table: pd.DataFrame, dtype: torch.dtype, what: str) -> Tensor:
    """Return a numeric table as a tensor [N, F]. Raises UserError for a value that `dtype` cannot represent."""
    x = torch.from_numpy(to_array(table, np.float64))
    cast = x.to(dtype)
    wrong = ~cast.isfinite() & x.isfinite() if dtype.is_floating_point else cast.double() != x
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        value = f"{what}, column '{table.columns[column]}', row {row + 1}: {x[row, column]:g}"
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"{value} cannot be represented in {name}, the dtype of the model's input")
    return cast


def parse_model_input(given: object, table: TableInput | None) -> Tensor:
    """Return raw samples of an MLflow model input: an array, a data frame, or lists and dictionaries from JSON.

    Raises MlflowException, which a server reports as a bad request.
    """
    if table is None:
        return torch.as_tensor(np.array(getattr(given, "values", given)))
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

    if not isinstance(given, np.ndarray | Tensor) or str(given.dtype) == "object":
        given = pd.DataFrame(given).infer_objects()
    try:
        if isinstance(given, pd.DataFrame):
            return table.samples(given, "the input")
        return torch.as_tensor(given).to(table.dtype)
    except UserError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
