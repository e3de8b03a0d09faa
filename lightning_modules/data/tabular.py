"""Tables: scikit-learn's, or your own .csv, .tsv or .parquet file. Longer than 200 lines: one class and its settings."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from hydra.utils import get_class, get_method
from sklearn import datasets
from torch import Tensor, nn

from lightning_modules.config.bounds import Positive, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.float64_scaling import Float64Affine, first_imprecise_row, require_precision
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.labels import look_like_identifiers, normalize_labels, require_labels, warn_identifiers
from lightning_modules.data.preprocess import MinMax, SampleSource, Standardize
from lightning_modules.data.table_file import SUFFIXES, read_table, to_array, to_numbers
from lightning_modules.data.table_input import TableInput
from lightning_modules.data.text_encoding import check_encoding

Bundled = Literal["iris", "wine", "breast_cancer", "diabetes", "digits"]
Missing = Literal["mean", "median", "most_frequent", "constant", "indicator", "drop"]
Categories = Literal["one_hot", "ordinal", "target", "embedding"]
Scaling = Literal["standardise", "normalise", "robust", "quantile", "power", "none"]
DatePart = Literal["year", "month", "day", "weekday", "hour"]
PREPARATION = "lightning_modules.zoo.data.table_preparation.TablePreparation"
SPLIT = "lightning_modules.zoo.data.table_splits.split_rows"


class Tabular(InMemoryData):
    """float32 [features]; every column but the target is a feature.

    A table with columns that need float64 precision (time stamps) is kept as float64 until it is scaled.

    Args:
        name: a data set bundled with scikit-learn; null with `path`.
        path: a .csv, .tsv or .parquet file.
        target: the column of `path` to predict; several columns give y float32 [N, D] of labels (0 or 1) or values.
        encoding: of a text file; null detects it.
        scaling: "standardise" (mean 0, std 1), "normalise" (0 to 1), "robust" (median and quartiles), "quantile" (ranks,
            0 to 1), "power" (Yeo-Johnson), fitted on the training part, or "none".
        regression: null decides by the target: floats are values, everything else are classes in sorted order.
        missing, categories, clip_z, log, dates: preparation of features, see conf/data/tabular.yaml; null rejects missing
            values, text and dates.
        columns: the same keys, or "drop", for single columns.
        split_by: a column, no feature, whose groups stay together; with split="time" the latest rows are tested.
    """

    @bounded
    def __init__(
        self,
        *,
        name: Bundled | None = "iris",
        path: str | Path | None = None,
        target: str | Sequence[str] | None = None,
        scaling: Scaling = "standardise",
        regression: bool | None = None,
        encoding: str | None = None,
        missing: Missing | None = None,
        categories: Categories | None = None,
        clip_z: Positive | None = None,
        log: bool = False,
        dates: Sequence[DatePart] | None = None,
        columns: Mapping[str, object] | None = None,
        split: Literal["random", "time"] = "random",
        split_by: str | None = None,
        **settings: Any,
    ) -> None:
        check_encoding(encoding)
        if (name is None) == (path is None):
            raise UserError(f"data.name={name} and data.path={path}: set one of them, the other to null")
        if path is not None and not target:
            raise UserError("data.target is missing: set it to the column of data.path to predict")
        if path is not None and Path(path).suffix.lower() not in SUFFIXES:
            raise UserError(f"data.path={path}: expected a file with suffix {', '.join(SUFFIXES)}")
        if split == "time" and split_by is None:
            raise UserError("data.split=time: set data.split_by to the column of times")
        if split_by is not None and split_by in ([target] if isinstance(target, str) else target or ()):
            raise UserError(f"data.split_by={split_by} is the target: choose another column")
        self.split_mode, self.split_by = split, split_by
        self.bundled = name
        self.path = Path(path).expanduser() if path else None
        self.targets = [target] if isinstance(target, str) else [str(column) for column in target or ()]
        self.scaling, self.regression, self.encoding = scaling, regression, encoding
        own = {
            "missing": missing,
            "categories": categories,
            "clip_z": clip_z,
            "log": log,
            "dates": list(dates or ()) or None,
        }
        self.preparation: Any = None
        if any(own.values()) or columns or scaling in ("robust", "quantile", "power"):
            self.preparation = get_class(PREPARATION)({"scaling": scaling, **own}, columns or {})
        super().__init__(**settings)
        self.name = name or (self.path.stem if self.path else "")

    def load(self) -> RawDataset:
        """Read the table.

        Raises UserError if the file or its target is missing, or a column has missing or non-numeric values.
        """
        what = f"data.path={self.path}" if self.path else f"data.name={self.bundled}"
        if self.path:
            table, target, names = *self._read_file(), None
        else:
            table, target, names = self._read_bundled()
        if self.split_by:
            if self.split_by not in table:
                raise UserError(
                    f"data.split_by={self.split_by} is not a column: {suggest(self.split_by, table.columns)}"
                )
            self.split_values = table.pop(self.split_by)
        if table.empty:
            raise UserError(f"{what}: the table has no rows or no feature columns")
        x = self.preparation.encode(table, what) if self.preparation else self._features(to_numbers(table, what))
        if isinstance(target, pd.DataFrame) or self._is_regression(target):
            values = to_numbers(target if isinstance(target, pd.DataFrame) else target.to_frame(), what)
            require_precision(values, np.float32, "subtract a constant from the target, or rescale it")
            y = np.array(values if len(values.columns) > 1 else values.iloc[:, 0], np.float32)
            return self._raw(x, torch.from_numpy(y))
        if target.isna().any():
            row = int(np.flatnonzero(target.isna())[0]) + 1
            raise UserError(f"{what}: the target {target.name} has missing values, the first is row {row}")
        numbers, classes = pd.factorize(target.to_numpy(), sort=True)
        if self.regression is None and pd.api.types.is_integer_dtype(target) and len(classes) * 2 > len(target) > 2:
            raise UserError(
                f"{what}: the target {target.name} has {len(classes)} distinct integers in {len(target)} rows, "
                "too many for classes: set data.regression=true to predict values"
            )
        return self._raw(x, torch.from_numpy(numbers).long(), names or [str(value) for value in classes])

    def _raw(self, x: Tensor, y: Tensor, names: list[str] | None = None) -> RawDataset:
        self.inputs = self.preparation.inputs if self.preparation else TableInput(tuple(self.columns or ()), x.dtype)
        self.columns, self._y = list(self.inputs.columns), y
        return RawDataset(x, y, class_names=names, content=self.preparation.content(x, y) if self.preparation else None)

    def _features(self, table: pd.DataFrame) -> Tensor:
        """Return float32 [N, F]; float64 if a column needs the precision and is scaled."""
        self.columns = list(table.columns)
        require_precision(table, np.float64, "subtract a constant from the column")
        if all(first_imprecise_row(table[name].to_numpy()) is None for name in table):
            return torch.from_numpy(to_array(table, np.float32))
        if self.scaling == "none":
            require_precision(table, np.float32, "use data.scaling=standardise, or rescale the column")
        return torch.from_numpy(to_array(table, np.float64))

    def _is_regression(self, target: pd.Series) -> bool:
        regression = pd.api.types.is_float_dtype(target) if self.regression is None else self.regression
        if regression and not pd.api.types.is_numeric_dtype(target):
            raise UserError(f"data.regression=true, but the target '{target.name}' is not numeric: {target.iloc[0]!r}")
        return regression

    def _read_bundled(self) -> tuple[pd.DataFrame, pd.Series, list[str] | None]:
        # by default, diabetes is scaled with moments of all samples
        raw = {"scaled": False} if self.bundled == "diabetes" else {}
        bunch = getattr(datasets, f"load_{self.bundled}")(as_frame=True, **raw)
        names = [str(name) for name in bunch.target_names] if "target_names" in bunch else None
        return self.preparation.select(bunch.data, [], {})[0] if self.preparation else bunch.data, bunch.target, names

    def _read_file(self) -> tuple[pd.DataFrame, pd.Series | pd.DataFrame]:
        assert self.path is not None
        if not self.path.is_file():
            raise UserError(f"data.path={self.path} does not exist (resolved to {self.path.resolve()})")
        table, cells = read_table(self.path, self.encoding, written=self.targets)
        for column in self.targets:
            if column not in table.columns:
                raise UserError(f"data.target={column} is not a column: {suggest(column, table.columns)}")
        if self.preparation:
            table, cells = self.preparation.select(table, self.targets, cells)
        features = table.drop(columns=self.targets)
        if len(self.targets) > 1:
            return features, table[self.targets]
        return features, self._classes_or_values(table[self.targets[0]], cells.get(self.targets[0]))

    def _classes_or_values(self, target: pd.Series, labels: list[str] | None) -> pd.Series:
        """Return the target as numbers or booleans if possible, else as class names ("NA" and "007" are class names)."""
        assert self.path is not None
        what = f"{self.path}, column {target.name}"
        if labels is None:
            return _plain_target(target, what)
        require_labels(labels, what, classes=self.regression is False)
        written = [label.strip() for label in labels]
        names = look_like_identifiers(written) and not self.regression
        if not names and pd.api.types.is_numeric_dtype(target) and not target.isna().any():
            return target
        if names:
            warn_identifiers(written, what)
        [labels] = normalize_labels([labels], what)
        return pd.Series(labels, name=target.name, dtype=object)

    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Split by the column `split_by`, if there is one."""
        if not self.split_by:
            return super().build_split(arrays)
        by_time, names = self.split_mode == "time", arrays.class_names
        return get_method(SPLIT)(arrays.y, self.plan, self.split_values, by_time, names)

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Scale according to `scaling`, or fit the preparation."""
        if self.preparation:
            return self.preparation.fit(x, self._y, train)
        if self.scaling == "none":
            return nn.Identity()
        if x.dtype == torch.float64:
            assert isinstance(x, Tensor)
            return Float64Affine.fit(x, train, self.columns or (), self.scaling)
        return Standardize.fit(x, train) if self.scaling == "standardise" else MinMax.fit(x, train)

    def model_settings(self) -> dict[str, object]:
        """Return the shape of prepared samples, and how many categories each column has that the network embeds."""
        return self.preparation.model_settings(self.preprocess, self.example(1)) if self.preparation else {}


def _plain_target(target: pd.Series, what: str) -> pd.Series:
    """Return a column of a Parquet file as numbers, booleans or text."""
    if isinstance(target.dtype, pd.CategoricalDtype):
        target = target.astype(target.cat.categories.dtype)
    if target.isna().any() or pd.api.types.is_numeric_dtype(target):
        return target
    if isinstance(target.iloc[0], Decimal):
        return target.astype(float)
    values = target.astype(object).tolist()
    if wrong := next((value for value in values if not isinstance(value, str | bool | int | float)), None):
        raise UserError(f"{what}: its values are neither numbers nor text: {wrong!r}")
    [labels] = normalize_labels([list(map(str, values))], what)
    return pd.Series(labels, name=target.name, dtype=object)
