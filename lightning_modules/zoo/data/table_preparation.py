"""Preparation of a table: missing values, text, dates, outliers and scaling, for ``data=tabular``."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.data.fingerprint import tensor_digest
from lightning_modules.data.float64_scaling import require_precision
from lightning_modules.data.table_file import to_array
from lightning_modules.data.table_input import TableInput, category_names
from lightning_modules.zoo.data.table_fitting import fit_table
from lightning_modules.zoo.data.table_modules import PreparedTable
from lightning_modules.zoo.data.table_settings import ColumnSettings, column_kinds, column_settings, incomplete_rows


class TablePreparation:
    """Encodes a table as float64 with NaN for missing values, and fits the module that prepares it.

    Args:
        default: the settings of every column, by the names of `ColumnSettings`.
        overrides: settings by column; "drop" for a column that is not a feature.
    """

    def __init__(self, default: PlainDict, overrides: PlainDict) -> None:
        self.default = ColumnSettings(**default)
        self.overrides = to_plain(OmegaConf.create(dict(overrides)))

    def select(
        self, table: pd.DataFrame, targets: Sequence[str], cells: Mapping[str, Sequence[str]]
    ) -> tuple[pd.DataFrame, dict[str, list[str]]]:
        """Return the table without dropped columns and rows, and the unparsed `cells` of its rows; a warning counts the rows.

        Raises UserError if no row is left.
        """
        features = [str(name) for name in table.columns if name not in targets]
        self.settings = column_settings(self.default, self.overrides, features, targets)
        table = table[[name for name in table.columns if name in self.settings]]
        wrong = incomplete_rows(table, self.settings, cells).to_numpy()
        if wrong.any():
            text = f"{int(wrong.sum())} of {len(wrong)} rows have missing values (missing=drop)"
            if wrong.all():
                raise UserError(f"{text}: no row is left")
            warnings.warn(
                f"{text} and were dropped, the first is row {int(np.flatnonzero(wrong)[0]) + 1}", stacklevel=2
            )
        kept = {
            name: [cell for cell, gone in zip(texts, wrong, strict=True) if not gone] for name, texts in cells.items()
        }
        return table[~wrong].reset_index(drop=True), kept

    def encode(self, table: pd.DataFrame, what: str) -> Tensor:
        """Return the features as raw samples float64 [N, F], and set `inputs`: how a recorded model reads a table.

        Raises UserError listing the columns that cannot be used.
        """
        chosen = [name for name, own in self.overrides.items() if isinstance(own, dict) and own.get("categories")]
        kinds = column_kinds(table, self.settings, chosen, what)
        categories = {name: _known_values(table[name]) for name, kind in kinds.items() if kind == "category"}
        dates = [name for name, kind in kinds.items() if kind == "date"]
        optional = [name for name in kinds if self.settings[name].missing not in (None, "drop")]
        self.inputs = TableInput(tuple(kinds), torch.float64, categories, dates, optional)
        numbers = self.inputs.encode(table, what)
        integers = [name for name in numbers if pd.api.types.is_integer_dtype(numbers[name])]
        require_precision(numbers[integers], np.float64, "subtract a constant from the column")
        return torch.from_numpy(to_array(numbers, np.float64))

    def content(self, x: Tensor, y: Tensor) -> str:
        """Return the sha256 of the raw values; codes stand for texts, which are part of it."""
        read = {key: value for key, value in self.inputs.plain().items() if key != "optional"}
        texts = json.dumps([read, tensor_digest(x, y)], sort_keys=True)
        return hashlib.sha256(texts.encode()).hexdigest()

    def fit(self, x: Tensor, y: Tensor, train: Tensor) -> PreparedTable:
        """Fit the module that prepares raw samples on the training part; a warning lists its useless columns."""
        settings = {name: self.settings[name] for name in self.inputs.columns}
        return fit_table(x, y, train, self.inputs.categories, self.inputs.dates, settings)

    def model_settings(self, prepared: PreparedTable, x: Tensor) -> dict[str, object]:
        """Return the arguments that a network takes from the data: the shape of prepared samples and `category_sizes`."""
        sizes = {"category_sizes": prepared.category_sizes} if prepared.category_sizes else {}
        return {"input_shape": list(prepared(x).shape[1:]), **sizes}


def _known_values(column: pd.Series) -> list[str]:
    return sorted({name for name in category_names(column.unique()) if name is not None})
