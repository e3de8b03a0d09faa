"""A table of your own with a column of texts and one of labels or values."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.data.text.memory import TextData, Texts, classes_of, missing
from lightning_modules.errors import UserError, nearest

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class TextFile(TextData):
    """A .csv or .tsv file with a header; an empty text is a text.

    Args:
        path: below the data root, or absolute.
        test_path: the official test part, if there is one.
        text, label: the columns.
        regression: null decides by the labels: numbers with a point are values, all else are classes in sorted order.
    """

    def __init__(
        self,
        *,
        path: str = "texts.csv",
        test_path: str | None = None,
        text: str = "text",
        label: str = "label",
        regression: bool | None = None,
        **settings: Any,
    ) -> None:
        self.paths = [Path(given).expanduser() for given in (path, test_path) if given]
        self.text, self.label = text, label
        self.regression = regression
        super().__init__(**settings)
        self.name = self.paths[0].stem

    def problems(self) -> list[str]:
        """Check the endings too."""
        return super().problems() + [
            f"data.path={path}: the ending must be one of {', '.join(SEPARATORS)}"
            for path in self.paths
            if path.suffix.lower() not in SEPARATORS
        ]

    def read(self) -> Texts:
        """Read the tables.

        Raises:
            UserError: a file or a column is not there, a label is missing, or a test part has a class of its own.
        """
        tables = [self._read(self.root / path) for path in self.paths]
        labels = [column for _, column in tables]
        parts = [Texts(texts, y) for (texts, _), y in zip(tables, self._targets(labels), strict=True)]
        if not parts[0].y.is_floating_point():
            parts[0].class_names = classes_of(labels[0])[1]
        parts[0].test = parts[1] if len(parts) > 1 else None
        return parts[0]

    def _read(self, path: Path) -> tuple[list[str], list[str]]:
        if not path.is_file():
            hint = (
                f"a table with the columns {self.text} and {self.label} is expected (data.path, data.text, data.label)"
            )
            raise missing("data=text_file", [path], hint)
        try:
            table = pd.read_csv(
                path, sep=SEPARATORS[path.suffix.lower()], dtype=str, keep_default_na=False,
                quoting=csv.QUOTE_MINIMAL if path.suffix.lower() == ".csv" else csv.QUOTE_NONE,
            )  # fmt: skip
        except Exception as error:  # the reader raises many kinds
            raise UserError(f"data.path={path} cannot be read: {error}") from error
        for key, column in (("text", self.text), ("label", self.label)):
            if column not in table.columns:
                raise UserError(f"data.{key}={column} is no column of {path}: {nearest(column, table.columns)}")
        labels = [str(label).strip() for label in table[self.label]]
        if not all(labels):
            raise UserError(
                f"{path}: {labels.count('')} rows have no {self.label}, the first is row {labels.index('') + 1}"
            )
        return [str(text) for text in table[self.text]], labels

    def _targets(self, labels: list[list[str]]) -> list[Tensor]:
        everything = [label for part in labels for label in part]
        if self.regression or (self.regression is None and _are_values(everything)):
            try:
                return [torch.from_numpy(np.array(part, np.float32)) for part in labels]
            except ValueError as error:
                raise UserError(f"data.regression=true, but column {self.label} holds no numbers: {error}") from error
        names = classes_of(labels[0])[1]
        number = {name: i for i, name in enumerate(names)}
        if strange := sorted(set(everything) - number.keys()):
            raise UserError(
                f"data.test_path: class {strange[0]!r} is not in {self.paths[0]}, which has {', '.join(names)}"
            )
        return [torch.tensor([number[label] for label in part]) for part in labels]


def _are_values(labels: list[str]) -> bool:
    """Whether all are numbers and some have a point."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return False
    return any("." in label for label in labels) and bool(np.isfinite(values).all())
