"""Table input of a recorded model: columns are matched by name, and values are checked."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.table_file import list_names, to_numbers


@dataclass(frozen=True)
class TableInput:
    """The columns that a model was trained on, in order, and the dtype of its raw samples.

    `columns` is empty for models recorded without column names, whose columns are matched by position.
    """

    columns: tuple[str, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> "TableInput | None":
        """Read the entry ``inputs`` of a checkpoint or an MLmodel; None if the model does not read tables."""
        found = recorded.get("inputs")
        return cls(tuple(found["columns"]), getattr(torch, found["dtype"])) if found else None

    def plain(self) -> dict[str, Any]:
        """Return the plain values that `of` reads."""
        return {"columns": list(self.columns), "dtype": str(self.dtype).removeprefix("torch.")}

    def frame(self, x: np.ndarray) -> pd.DataFrame:
        """Return raw samples [N, F] as a table."""
        return pd.DataFrame(x, columns=list(self.columns))

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
        return to_samples(to_numbers(table, what), self.dtype, what)


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
    x = torch.from_numpy(table.to_numpy(np.float64))
    cast = x.to(dtype)
    wrong = ~cast.isfinite() if dtype.is_floating_point else cast.double() != x
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        value = f"{what}, column '{table.columns[column]}', row {row + 1}: {x[row, column]:g}"
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"{value} cannot be represented in {name}, the dtype of the model's input")
    return cast


def parse_model_input(given: Any, table: TableInput | None) -> Tensor:
    """Return raw samples of an MLflow model input: an array, a data frame, or lists and dictionaries from JSON.

    Raises MlflowException, which a server reports as a bad request.
    """
    if table is None:
        return torch.as_tensor(np.array(getattr(given, "values", given)))
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

    if not isinstance(given, np.ndarray | Tensor | pd.DataFrame):
        given = pd.DataFrame(given)
    try:
        if isinstance(given, pd.DataFrame):
            return table.samples(given, "the input")
        return torch.as_tensor(given).to(table.dtype)
    except UserError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
