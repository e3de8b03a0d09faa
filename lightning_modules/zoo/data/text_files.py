"""Your own texts: one folder per class, a table with texts and labels or values, or lines without labels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError, suggest, warn
from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.float64_scaling import require_precision
from lightning_modules.data.labels import (
    are_numbers,
    look_like_identifiers,
    normalize_labels,
    require_labels,
    warn_identifiers,
)
from lightning_modules.data.table_file import column_names, read_columns
from lightning_modules.data.text_encoding import check_encoding, read_texts
from lightning_modules.zoo.data.text_data import TextData, Texts, encode_classes, missing_files_error


class TextFolder(TextData):
    """``<root>/<folder>/{train,val,test}/CLASS/*.txt`` or ``<root>/<folder>/CLASS/*.txt``, one text per file.

    `class_folders.py` lists alternative folder names of the parts.

    Args:
        folder: relative to the data root; "." is the root itself.
        encoding: of the files; null detects it for each file.
    """

    def __init__(self, *, folder: str = "texts", encoding: str | None = None, **settings: Any) -> None:
        check_encoding(encoding)
        self.folder, self.encoding = folder, encoding
        super().__init__(**settings)
        self.name = Path(folder).name or "text_folder"

    def places(self) -> list[Path]:
        """Return the candidate folders that contain the class folders."""
        return [self.root / self.folder]

    def hint(self) -> str:
        """Return how to get the texts, for the error message."""
        return "Create one folder per class there, with one .txt file per text; data.folder sets another folder"

    def read(self) -> Texts:
        """Read all files, sorted by path.

        Raises UserError if there are no files, a class is unknown or empty, or a file cannot be decoded.
        """
        places = [place for place in self.places() if any(place.glob("*/*.txt")) or any(place.glob("*/*/*.txt"))]
        if not places:
            raise missing_files_error(f"data={self.name}", self.places(), self.hint())
        names, parts = read_class_folders(places[0], "texts", (".txt",), "data.folder")
        everything = [file for files in parts.values() for file, _ in files]
        texts = dict(zip(everything, read_texts(everything, self.encoding), strict=True))

        def texts_of(files: list[tuple[Path, int]]) -> Texts:
            y = torch.tensor([label for _, label in files])
            return Texts([texts[file] for file, _ in files], y, class_names=names)

        given = texts_of(parts["train"] + parts.get("val", []))
        given.val = torch.arange(len(parts["train"]), len(given.y)) if "val" in parts else None
        given.test = texts_of(parts["test"]) if "test" in parts else None
        return given


class TextLines(TextData):
    """A file with one text per line and no labels, for masked language modelling; empty lines are left out and counted."""

    def __init__(self, *, path: str = "texts.txt", encoding: str | None = None, **settings: Any) -> None:
        check_encoding(encoding)
        self.path, self.encoding = Path(path).expanduser(), encoding
        super().__init__(**settings)
        self.name = self.path.stem

    def read(self) -> Texts:
        """Read the file. Raises UserError if it is missing, cannot be decoded, or has no text."""
        path = self.root / self.path
        if not path.is_file():
            raise missing_files_error("data=text_lines", [path], "Expected a file with one text per line (data.path)")
        lines = read_texts([path], self.encoding)[0].split("\n")
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise UserError(f"{path} is empty: expected one text per line")
        if empty := len(lines) - len(texts) - (not lines[-1]):
            warn(f"{path}: left out {empty} empty lines")
        return Texts(texts, torch.zeros(len(texts)))


SUFFIXES = (".csv", ".tsv")


class TextTable(TextData):
    """A .csv or .tsv file with a header; empty texts are allowed.

    Args:
        path: relative to the data root, or absolute.
        test_path: the official test part, if there is one.
        text, label: names of the columns.
        regression: null decides by the labels: numbers with a decimal point are values, all others are classes.
        encoding: of the files; null detects it.
    """

    def __init__(
        self,
        *,
        path: str = "texts.csv",
        test_path: str | None = None,
        text: str = "text",
        label: str = "label",
        regression: bool | None = None,
        encoding: str | None = None,
        **settings: Any,
    ) -> None:
        check_encoding(encoding)
        self.paths = [Path(given).expanduser() for given in (path, test_path) if given]
        if wrong := [given for given in self.paths if given.suffix.lower() not in SUFFIXES]:
            raise UserError(f"data.path={wrong[0]}: expected a file with suffix {', '.join(SUFFIXES)}")
        self.text, self.label = text, label
        self.regression = regression
        self.encoding = encoding
        super().__init__(**settings)
        self.name = self.paths[0].stem

    def read(self) -> Texts:
        """Read the tables.

        Raises UserError if a file, a column or a label is missing, or a row is longer or shorter than the header.
        """
        paths = [self.root / path for path in self.paths]
        tables = [self._read(path) for path in paths]
        what = f"{paths[0]}, column {self.label}"
        labels = [[label.strip() for label in table[self.label]] for table in tables]
        texts = [table[self.text] for table in tables]
        if values := self._values(labels, what):
            parts = [Texts(text, y) for text, y in zip(texts, values, strict=True)]
        else:
            labels = normalize_labels([table[self.label] for table in tables], what)
            y, names = encode_classes([label for part in labels for label in part])
            sizes = [len(part) for part in labels]
            parts = [Texts(text, part) for text, part in zip(texts, y.split(sizes), strict=True)]
            parts[0].class_names = names
        parts[0].test = parts[1] if len(parts) > 1 else None
        return parts[0]

    def _read(self, path: Path) -> dict[str, list[str]]:
        if not path.is_file():
            hint = f"Expected a table with the columns {self.text} and {self.label} (data.path, data.text, data.label)"
            raise missing_files_error("data=text_file", [path], hint)
        header = column_names(path, self.encoding)
        for key, column in (("text", self.text), ("label", self.label)):
            if column not in header:
                raise UserError(f"data.{key}={column} is not a column of {path}: {suggest(column, header)}")
        table = read_columns(path, [self.text, self.label], self.encoding)
        require_labels(table[self.label], f"{path}, column {self.label}", classes=self.regression is False)
        return table

    def _values(self, labels: list[list[str]], what: str) -> list[Tensor] | None:
        """Return float32 [N] of each part; None if the labels are classes."""
        everything = [label for part in labels for label in part]
        if self.regression is None and _are_values(everything) and look_like_identifiers(everything):
            warn_identifiers(everything, what)
            return None
        if not (self.regression or (self.regression is None and _are_values(everything))):
            return None
        try:
            values = [np.array(part, np.float64) for part in labels]
        except ValueError as error:
            raise UserError(f"data.regression=true, but column {self.label} is not numeric: {error}") from error
        for path, part in zip(self.paths, values, strict=True):
            if not np.isfinite(part).all():
                row = int(np.flatnonzero(~np.isfinite(part))[0]) + 1
                raise UserError(f"{path}, column {self.label}: an infinite or missing value in row {row}")
            require_precision(
                pd.DataFrame({self.label: part}), np.float32, "subtract a constant from it, or rescale it"
            )
        return [torch.from_numpy(part.astype(np.float32)) for part in values]


def _are_values(labels: list[str]) -> bool:
    """Return whether all are finite numbers and some have a decimal point."""
    return any("." in label for label in labels) and are_numbers(labels, math.isfinite)
