"""Reader for table files that checks every row against the header. Longer than 200 lines: one check for each fault."""

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import require_parquet_fits
from lightning_modules.data.labels import are_numbers
from lightning_modules.data.text_encoding import detect_encodings

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = (",", "\t", ";", "|")
MAX_LISTED = 5  # rows or columns listed in a message
ROWS = 4096  # copied at once, so that they stay in the processor's cache
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Format:
    """Encoding, delimiter and quoting of a text file."""

    encoding: str
    delimiter: str
    quoting: Any  # csv.QUOTE_MINIMAL; QUOTE_NONE for .tsv, where quotes have no meaning

    def rows(
        self, path: Path, split: Callable[[str, str], list[str]] = str.split
    ) -> Iterator[tuple[int, int, list[str]]]:
        """Yield the number of its first line, the number of cells and the cells of each non-blank row.

        A row without quotes is separated by `split`, which may stop at the last cell that is used.
        """
        number, last, row = 0, "", [""]

        def remember(line: str) -> str:
            nonlocal last
            last = line
            return line

        with path.open(encoding=self.encoding, newline="") as opened:
            for line in opened:
                last = line
                start, number = number + 1, number + 1
                if '"' in line and self.quoting != csv.QUOTE_NONE:
                    reader = csv.reader(
                        chain([line], map(remember, opened)), delimiter=self.delimiter, quoting=self.quoting
                    )
                    row = next(reader)
                    number, width = start + reader.line_num - 1, len(row)
                else:
                    row, width = split(line.rstrip("\r\n"), self.delimiter), line.count(self.delimiter) + 1
                if width > 1 or row[0].strip():
                    yield start, width, row
            if "\n" in row[-1] and not last.rstrip("\r\n").endswith('"'):
                raise UserError(f"{path}: a quote that opens on line {start} is never closed")

    def header(self, path: Path) -> list[str]:
        """Return the cells of the first row."""
        return next(self.rows(path), (0, 0, []))[2]


def read_columns(path: Path, columns: Sequence[str], encoding: str | None = None) -> dict[str, list[str]]:
    """Return the unparsed cells of those `columns` that a .csv or .tsv file has.

    Raises UserError if the file cannot be read, or a row is longer or shorter than the header.
    """
    with _wrap_errors(path):
        return _columns(path, _format_of(path, encoding), columns)


def _columns(path: Path, form: Format, columns: Sequence[str]) -> dict[str, list[str]]:
    header = [name.strip() for name in form.header(path)]
    read: dict[str, list[str]] = {column: [] for column in columns if column in header}
    wrong, width = [], len(header)
    places = [header.index(column) for column in read]
    first, last = max(places, default=-1) + 1, width - min(places, default=0)
    split = partial(str.split, maxsplit=first)
    if last < first:  # from the end, where there are fewer
        split, places = partial(str.rsplit, maxsplit=last), [place - width for place in places]
    for number, (line, found, row) in enumerate(islice(form.rows(path, split), 1, None), start=1):
        if found == width:
            for place, cells in zip(places, read.values(), strict=True):
                cells.append(row[place])
        else:
            wrong.append(f"row {number} (line {line}) has {found}")
    if wrong:
        more = f" and {len(wrong) - MAX_LISTED} more rows" if len(wrong) > MAX_LISTED else ""
        raise UserError(
            f"{path}: the header has {width} columns ({', '.join(header[:MAX_LISTED])}{', …' * (width > MAX_LISTED)}), "
            f"but {', '.join(wrong[:MAX_LISTED])}{more}. Quote cells that contain the delimiter, and fill in short rows"
        )
    return read


def read_table(
    path: Path, encoding: str | None = None, written: Sequence[str] = (), header: bool = True, text: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Return a table as pandas reads it, and for a text file the unparsed cells of the columns `written`.

    Names are stripped; an unnamed index column is dropped with a warning.

    Args:
        encoding: of text files; detected by default.
        header: whether the first row of a text file contains the column names.
        text: columns of a text file that are not parsed as numbers.

    Raises UserError if the file cannot be read, or a row is longer or shorter than the header.
    """
    cells: dict[str, list[str]] = {}
    with _wrap_errors(path):
        if path.suffix.lower() == ".parquet":
            require_parquet_fits(path)
            table = pd.read_parquet(path)
        else:
            form = _format_of(path, encoding)
            cells = _columns(path, form, written)  # pandas treats longer rows as an index, and fills shorter ones
            names = form.header(path) if text and header else []
            table = pd.read_csv(
                path, sep=form.delimiter, encoding=form.encoding, quoting=form.quoting, index_col=False,
                header=0 if header else None, low_memory=False, dtype={n: "str" for n in names if n.strip() in text},
            )  # fmt: skip
    if header:
        table.columns = [str(name).strip() for name in table.columns]
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{path}: two columns have the name '{twice}': rename one of them")
    return _drop_index_column(table, path) if header else table, cells


def column_names(path: Path, encoding: str | None = None) -> list[str]:
    """Return the stripped cells of the first row of a .csv or .tsv file."""
    with _wrap_errors(path):
        return [name.strip() for name in _format_of(path, encoding, warn=False).header(path)]


def has_header(path: Path, columns: Sequence[str], encoding: str | None = None) -> bool:
    """Return whether the first row contains column names: some of `columns`, or cells that are not all numbers."""
    if path.suffix.lower() == ".parquet":
        return True
    cells = column_names(path, encoding)
    numbered = cells == [str(i) for i in range(len(cells))]  # column names that pandas gives by default
    return bool(set(columns) & set(cells)) or numbered or not are_numbers(cells)


def _format_of(path: Path, encoding: str | None, warn: bool = True) -> Format:
    with warnings.catch_warnings():
        if not warn:
            warnings.simplefilter("ignore")
        [name] = detect_encodings([path], encoding)
    tabs = path.suffix.lower() == ".tsv"
    usual, quoting = ("\t", csv.QUOTE_NONE) if tabs else (",", csv.QUOTE_MINIMAL)
    header = Format(name, usual, quoting).header(path)
    others = {delimiter: header[0].count(delimiter) for delimiter in DELIMITERS} if len(header) == 1 else {usual: 1}
    best = max(others, key=lambda delimiter: others[delimiter])
    return Format(name, best if others[best] else usual, quoting)


@contextmanager
def _wrap_errors(path: Path) -> Iterator[None]:
    """Convert any error of a reader to a UserError that names the file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist (resolved to {path.resolve()})")
    try:
        yield
    except UserError:
        raise
    except UnicodeError as error:
        raise UserError(f"{path} cannot be decoded: {error}; set data.encoding, or null") from error
    except Exception as error:
        raise UserError(f"{path} cannot be read: {str(error).strip() or type(error).__name__}") from error


def _drop_index_column(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Drop an unnamed column of unique integers: the index that `DataFrame.to_csv` writes."""
    nameless = [name for name in table.columns if not name or name.startswith("Unnamed: ")]
    unnamed = [n for n in nameless if pd.api.types.is_integer_dtype(table[n]) and table[n].is_unique]
    if unnamed:
        dropped = f"{path}: dropped the unnamed column of row numbers ({', '.join(map(repr, unnamed))})"
        warnings.warn(f"{dropped}; name it to use it as a feature", stacklevel=3)
    return table.drop(columns=unnamed)


def list_names(names: Sequence[str]) -> str:
    """Return at most twenty names for a message."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def to_numbers(table: pd.DataFrame, what: str, optional: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table with numeric columns only: booleans, decimals and categories of numbers are converted.

    Raises UserError listing the columns with other, infinite or (except for `optional`) missing values; `what` names the
    table.
    """
    columns = {name: numeric_column(table.iloc[:, i]) for i, name in enumerate(table.columns)}
    words = [name for name, column in columns.items() if column is None]
    numbers = {name: column for name, column in columns.items() if column is not None}
    suspects = {name: column for name, column in numbers.items() if not np.isfinite(column.astype(float)).all()}
    gaps = [_locate(name, c.isna()) for name, c in suspects.items() if name not in optional and c.isna().any()]
    infinite = {name: np.isinf(column.astype(float)) for name, column in suspects.items()}
    endless = [_locate(name, wrong) for name, wrong in infinite.items() if wrong.any()]
    kinds = {
        "columns that are not numbers (encode or drop them)": words,
        "columns with missing values (fill them in or drop the rows)": gaps,
        "columns with infinite values": endless,
    }
    if problems := [f"{kind}: {list_names(found)}" for kind, found in kinds.items() if found]:
        raise UserError(f"{what} cannot be used: " + "; ".join(problems))
    return pd.DataFrame(numbers, index=table.index, copy=False)


def to_array(table: pd.DataFrame, dtype: Any) -> np.ndarray:
    """Return a numeric table as an array [N, F] whose rows are contiguous."""
    found = np.empty(table.shape, dtype)
    for start in range(0, len(table), ROWS):
        found[start : start + ROWS] = table.iloc[start : start + ROWS].to_numpy(dtype)
    return found


def _locate(name: str, wrong: pd.Series) -> str:
    return f"{name} (row {int(np.flatnonzero(wrong)[0]) + 1})"


def numeric_column(column: pd.Series) -> pd.Series | None:
    """Return the column as numbers; None if its type is not numeric."""
    import decimal

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.dtype == object and column.map(lambda v: isinstance(v, decimal.Decimal | float | None)).all():
        column = column.astype(float)
    return column if pd.api.types.is_numeric_dtype(column) else None
