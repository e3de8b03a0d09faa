"""Table files: .csv, .tsv and .parquet, with every row as wide as the header."""

import csv
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_modules.config.errors import UserError
from lightning_modules.data.labels import are_numbers
from lightning_modules.data.size_checks import require_parquet_fits
from lightning_modules.data.text_encoding import detect_encodings

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = (",", "\t", ";", "|")
MAX_LISTED = 5  # rows or columns that a message lists
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Format:
    """How a text file is read."""

    encoding: str
    delimiter: str
    quoting: Any  # csv.QUOTE_MINIMAL; QUOTE_NONE for .tsv, where a quote is a character like any other

    def rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not blank with the number of the line on which it starts."""
        with path.open(encoding=self.encoding, newline="") as opened:
            lines = _Lines(opened)
            reader = csv.reader(lines, delimiter=self.delimiter, quoting=self.quoting)
            start, begun, row = 1, 1, [""]
            for row in reader:
                if row and not (len(row) == 1 and not row[0].strip()):
                    yield start, row
                begun, start = start, reader.line_num + 1
            if row and "\n" in row[-1] and not lines.last.rstrip("\r\n").endswith('"'):
                raise UserError(f"{path}: a quote that opens on line {begun} is never closed")


class _Lines(Iterator[str]):
    """The lines of a file, with the last one read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines, self.last = iter(lines), ""

    def __next__(self) -> str:
        self.last = next(self.lines)
        return self.last


def read_columns(path: Path, columns: Sequence[str], encoding: str | None = None) -> dict[str, list[str]]:
    """Return those of the `columns` that a .csv or .tsv file has, as they are written.

    Raises UserError where the file cannot be read, or a row is longer or shorter than the header.
    """
    with _wrap_errors(path):
        return _columns(path, _format_of(path, encoding), columns)


def _columns(path: Path, form: Format, columns: Sequence[str]) -> dict[str, list[str]]:
    rows = form.rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    read: dict[str, list[str]] = {column: [] for column in columns if column in header}
    places = [(header.index(column), cells) for column, cells in read.items()]
    wrong, width = [], len(header)
    for number, (line, row) in enumerate(rows, start=1):
        if len(row) == width:
            for place, cells in places:
                cells.append(row[place])
        else:
            wrong.append(f"row {number} (line {line}) has {len(row)}")
    if wrong:
        more = f" and {len(wrong) - MAX_LISTED} more rows" if len(wrong) > MAX_LISTED else ""
        raise UserError(
            f"{path}: the header has {width} columns ({', '.join(header[:MAX_LISTED])}{', …' * (width > MAX_LISTED)}), "
            f"but {', '.join(wrong[:MAX_LISTED])}{more}. Quote cells that contain the delimiter, and complete short rows"
        )
    return read


def read_table(
    path: Path, encoding: str | None = None, written: Sequence[str] = (), header: bool = True
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Return a table as pandas reads it, and of a text file the columns `written` as they are written.

    Names are stripped; an unnamed index column is dropped with a warning.

    Args:
        encoding: of text files; default is detected.
        header: whether the first row of a text file names the columns.

    Raises UserError where the file cannot be read, or a row is longer or shorter than the header.
    """
    cells: dict[str, list[str]] = {}
    with _wrap_errors(path):
        if path.suffix.lower() == ".parquet":
            require_parquet_fits(path)
            table = pd.read_parquet(path)
        else:
            form = _format_of(path, encoding)
            cells = _columns(path, form, written)  # pandas takes longer rows for an index, and fills shorter ones
            table = pd.read_csv(
                path, sep=form.delimiter, encoding=form.encoding, quoting=form.quoting, index_col=False,
                header=0 if header else None, low_memory=False,
            )  # fmt: skip
    if header:
        table.columns = [str(name).strip() for name in table.columns]
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{path}: two columns are named '{twice}': rename one of them")
    return _drop_index_column(table, path) if header else table, cells


def column_names(path: Path, encoding: str | None = None) -> list[str]:
    """Return the cells of the first row of a .csv or .tsv file."""
    with _wrap_errors(path):
        _, row = next(_format_of(path, encoding, warn=False).rows(path), (0, []))
    return [name.strip() for name in row]


def has_header(path: Path, columns: Sequence[str], encoding: str | None = None) -> bool:
    """Whether the first row names columns, some of them `columns`: it does not where all its cells are numbers."""
    if path.suffix.lower() == ".parquet":
        return True
    cells = column_names(path, encoding)
    numbered = cells == [str(i) for i in range(len(cells))]  # as pandas numbers columns without names
    return bool(set(columns) & set(cells)) or numbered or not are_numbers(cells)


def _format_of(path: Path, encoding: str | None, warn: bool = True) -> Format:
    with warnings.catch_warnings():
        if not warn:
            warnings.simplefilter("ignore")
        [name] = detect_encodings([path], encoding)
    tabs = path.suffix.lower() == ".tsv"
    usual, quoting = ("\t", csv.QUOTE_NONE) if tabs else (",", csv.QUOTE_MINIMAL)
    _, header = next(Format(name, usual, quoting).rows(path), (0, []))
    others = {delimiter: header[0].count(delimiter) for delimiter in DELIMITERS} if len(header) == 1 else {usual: 1}
    best = max(others, key=lambda delimiter: others[delimiter])
    return Format(name, best if others[best] else usual, quoting)


@contextmanager
def _wrap_errors(path: Path) -> Iterator[None]:
    """Raise what a reader raises, of many kinds, as a UserError that names the file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file (looked for {path.resolve()})")
    try:
        yield
    except UserError:
        raise
    except UnicodeError as error:
        raise UserError(f"{path} cannot be decoded: {error}; set data.encoding, or null") from error
    except Exception as error:
        raise UserError(f"{path} cannot be read: {str(error).strip() or type(error).__name__}") from error


def _drop_index_column(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Drop an unnamed column of whole numbers that never repeat: the row numbers, as `DataFrame.to_csv` writes them."""
    unnamed = [
        name
        for name in table.columns
        if (not name or name.startswith("Unnamed: "))
        and pd.api.types.is_integer_dtype(table[name])
        and table[name].is_unique
    ]
    if unnamed:
        warnings.warn(
            f"{path}: the unnamed column of row numbers ({', '.join(map(repr, unnamed))}) is dropped; "
            "give it a name to use it as a feature",
            stacklevel=3,
        )
    return table.drop(columns=unnamed)


def list_names(names: Sequence[str]) -> str:
    """Return the names, at most twenty, for a message."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def to_numbers(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return a table of which every column has a numeric type: booleans, decimals and categories of numbers are converted.

    Raises UserError with every column that has no numbers, or missing or infinite values; `what` names the table.
    """
    columns = {name: _numeric(table.iloc[:, i]) for i, name in enumerate(table.columns)}
    words = [name for name, column in columns.items() if column is None]
    numbers = {name: column for name, column in columns.items() if column is not None}
    gaps = [_locate(name, column.isna()) for name, column in numbers.items() if column.isna().any()]
    endless = [
        _locate(name, ~np.isfinite(column.astype(float)))
        for name, column in numbers.items()
        if not column.isna().any() and not np.isfinite(column.astype(float)).all()
    ]
    problems = [
        f"{kind}: {list_names(found)}"
        for kind, found in (
            ("columns that are not numbers (encode or drop them)", words),
            ("columns with missing values (fill them or drop the rows)", gaps),
            ("columns with infinite values", endless),
        )
        if found
    ]
    if problems:
        raise UserError(f"{what} cannot be used as it is; " + "; ".join(problems))
    return pd.DataFrame(numbers, index=table.index)


def _locate(name: str, wrong: pd.Series) -> str:
    return f"{name} (row {int(np.flatnonzero(wrong)[0]) + 1})"


def _numeric(column: pd.Series) -> pd.Series | None:
    """The column as numbers; None where it has none."""
    import decimal

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.dtype == object and column.map(lambda value: isinstance(value, decimal.Decimal) or value is None).all():
        column = column.astype(float)
    return column if pd.api.types.is_numeric_dtype(column) else None
