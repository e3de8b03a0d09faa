"""Tables: scikit-learn's bundled sets, or a CSV or Parquet file of your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from torch import Tensor, nn

from lightning_modules.data.memory import Arrays, InMemoryData
from lightning_modules.data.preprocess import MinMax, Standardize, Store
from lightning_modules.errors import UserError, nearest

BUNDLED = ("iris", "wine", "breast_cancer", "diabetes", "digits")
READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
SCALINGS = ("standardise", "normalise", "none")


class Tabular(InMemoryData):
    """float32 [features]; every column but the target is a feature.

    Args:
        name: a set that scikit-learn carries; null with `path`.
        path: a .csv or .parquet file, with `target`, the column to predict; several columns give y float32 [N, D]
            for several labels (0 or 1) or values.
        scaling: "standardise" (mean 0, std 1) or "normalise" (0 to 1) by the training part, or "none".
        regression: null decides by the target: floats are regressed, all else are classes in sorted order.
    """

    def __init__(
        self,
        *,
        name: str | None = "iris",
        path: str | Path | None = None,
        target: str | Sequence[str] | None = None,
        scaling: Literal["standardise", "normalise", "none"] = "standardise",
        regression: bool | None = None,
        **settings: Any,
    ) -> None:
        self.bundled = name
        self.path = Path(path).expanduser() if path else None
        self.targets = [target] if isinstance(target, str) else [str(column) for column in target or ()]
        self.scaling = scaling
        self.regression = regression
        super().__init__(**settings)
        self.name = name or (self.path.stem if self.path else "")

    def problems(self) -> list[str]:
        """Check the table's settings too."""
        found = super().problems()
        if (self.bundled is None) == (self.path is None):
            found.append(f"data.name={self.bundled} and data.path={self.path}: give one of them, the other null")
        elif self.bundled is not None and self.bundled not in BUNDLED:
            found.append(f"data.name={self.bundled}: {nearest(self.bundled, BUNDLED)}")
        elif self.path is not None and not self.targets:
            found.append("data.target is missing: name the column of data.path that is to be predicted")
        if self.path is not None and self.path.suffix.lower() not in READERS:
            found.append(f"data.path={self.path}: the ending must be one of {', '.join(READERS)}")
        if self.scaling not in SCALINGS:
            found.append(f"data.scaling={self.scaling}: {nearest(self.scaling, SCALINGS)}")
        return found

    def load(self) -> Arrays:
        """Read the table.

        Raises:
            UserError: the file or its target is missing, or a column has gaps or is no number.
        """
        table, target, names = self._read_file() if self.path else self._read_bundled()
        _check(table, target)
        x = torch.from_numpy(np.array(table, np.float32))
        if isinstance(target, pd.DataFrame):
            return Arrays(x, torch.from_numpy(np.array(target, np.float32)))
        regression = pd.api.types.is_float_dtype(target) if self.regression is None else self.regression
        if regression and not pd.api.types.is_numeric_dtype(target):
            raise UserError(f"data.regression=true, but the target '{target.name}' is no number: {target.iloc[0]!r}")
        if regression:
            return Arrays(x, torch.from_numpy(np.array(target, np.float32)))
        classes, y = np.unique(target.to_numpy(), return_inverse=True)
        return Arrays(x, torch.from_numpy(y).long(), class_names=names or [str(value) for value in classes])

    def _read_bundled(self) -> tuple[pd.DataFrame, pd.Series, list[str] | None]:
        # diabetes comes scaled with moments of the whole set: ask for the raw values
        raw = {"scaled": False} if self.bundled == "diabetes" else {}
        bunch = getattr(datasets, f"load_{self.bundled}")(as_frame=True, **raw)
        names = [str(name) for name in bunch.target_names] if "target_names" in bunch else None
        return bunch.data, bunch.target, names

    def _read_file(self) -> tuple[pd.DataFrame, pd.Series | pd.DataFrame, None]:
        assert self.path is not None
        if not self.path.is_file():
            raise UserError(f"data.path={self.path}: there is no such file (looked for {self.path.resolve()})")
        try:
            table = READERS[self.path.suffix.lower()](self.path)
        except Exception as error:  # the readers raise many kinds
            raise UserError(f"data.path={self.path} cannot be read: {error}") from error
        for column in self.targets:
            if column not in table.columns:
                raise UserError(f"data.target={column} is no column: {nearest(column, table.columns)}")
        several = len(self.targets) > 1
        return table.drop(columns=self.targets), table[self.targets if several else self.targets[0]], None

    def build_preprocess(self, x: Store, train: Tensor) -> nn.Module:
        """Scale as `scaling` says."""
        if self.scaling == "none":
            return nn.Identity()
        return Standardize.fit(x, train) if self.scaling == "standardise" else MinMax.fit(x, train)


def _check(table: pd.DataFrame, target: pd.Series | pd.DataFrame) -> None:
    """Raise UserError with every column that a model cannot read."""
    if table.empty:
        raise UserError("the table has no rows or no feature columns")
    targets = target if isinstance(target, pd.DataFrame) else target.to_frame()
    several = targets if len(targets.columns) > 1 else targets.iloc[:, :0]  # these must be numbers too
    words = [str(c) for part in (table, several) for c in part if not pd.api.types.is_numeric_dtype(part[c])]
    gaps = [str(c) for part in (table, targets) for c in part if part[c].isna().any()]
    endless = [str(c) for c in table if str(c) not in words + gaps and not np.isfinite(table[c].astype(float)).all()]
    problems = [
        f"{what}: {', '.join(columns)}"
        for what, columns in (
            ("columns that are no numbers (encode or drop them)", words),
            ("columns with missing values (fill them or drop the rows)", gaps),
            ("columns with infinite values", endless),
        )
        if columns
    ]
    if problems:
        raise UserError("the table cannot be used as it is; " + "; ".join(problems))
