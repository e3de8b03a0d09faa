"""Settings of table columns: the keys of ``data=tabular`` that prepare columns, and ``data.columns``, which overrides them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import get_type_hints

import pandas as pd

from lightning_modules.config.bounds import Positive, mismatch
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.table_file import list_names, numeric_column
from lightning_modules.data.tabular import Categories, DatePart, Missing, Scaling

SAMPLE = 50  # values of a column that are compared before all are
MAX_CATEGORIES = 1000  # of a column that is encoded as one_hot
DROP = "drop"  # as the settings of a column: not a feature


@dataclass(frozen=True)
class ColumnSettings:
    """How one column is prepared; see `Tabular`. A number as `missing` is the constant that stands for missing values."""

    missing: Missing | float | None = None
    categories: Categories | None = None
    scaling: Scaling = "standardise"
    clip_z: Positive | None = None
    log: bool = False
    dates: Sequence[DatePart] | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        wrong = [
            f"{key.name}={value}: {mistake}"
            for key in fields(self)
            if (mistake := mismatch(value := getattr(self, key.name), hints[key.name]))
        ]
        if wrong:
            raise UserError("; ".join(wrong))


def column_settings(
    default: ColumnSettings, overrides: Mapping[str, object], names: Sequence[str], targets: Sequence[str]
) -> dict[str, ColumnSettings]:
    """Return the settings of each column that is kept, the targets included.

    Raises UserError for unknown columns and settings.
    """
    known, found = [*names, *targets], dict.fromkeys([*names, *targets], default)
    keys = [key.name for key in fields(ColumnSettings)]
    for name, given in overrides.items():
        if name not in known:
            raise UserError(f"data.columns: '{name}' is not a column: {suggest(name, known)}")
        if given == DROP and name not in targets:
            del found[name]
            continue
        if not isinstance(given, Mapping):
            raise UserError(f"data.columns.{name}={given}: expected settings such as {{missing: median}}, or drop")
        if wrong := [key for key in given if key not in keys]:
            raise UserError(f"data.columns.{name}.{wrong[0]} is not a setting: {suggest(wrong[0], keys)}")
        if name in targets and dict(given) != {"missing": "drop"}:
            raise UserError(f"data.columns.{name}: the target can have one setting, missing: drop")
        try:
            found[name] = replace(default, **{str(key): value for key, value in given.items()})
        except UserError as error:
            raise UserError(f"data.columns.{name}: {error}") from error
    return found


def column_kinds(
    table: pd.DataFrame, settings: Mapping[str, ColumnSettings], chosen: Sequence[str], what: str
) -> dict[str, str]:
    """Return "number", "category" or "date" for each column; `chosen` are categories even if they are numbers.

    Raises UserError listing columns of text or dates without settings for them.
    """
    kinds, problems = {}, []
    for name in table.columns:
        column, own = table[name], settings[name]
        numbers = numeric_column(column) is not None
        if pd.api.types.is_datetime64_any_dtype(column) or (not numbers and own.dates and _are_dates(column)):
            kinds[name] = "date"
            if not own.dates:
                problems.append(f"{name} (dates: set data.dates)")
        elif not numbers or name in chosen:
            kinds[name] = "category"
            if not own.categories:
                problems.append(f"{name} (text: set data.categories)")
        else:
            kinds[name] = "number"
    if problems:
        raise UserError(
            f"{what} has columns that are not numbers: {list_names(problems)}; or drop one with data.columns={{NAME: drop}}"
        )
    return kinds


def _are_dates(column: pd.Series) -> bool:
    try:
        pd.to_datetime(column, format="ISO8601", utc=True)
        return not column.isna().all()
    except (ValueError, TypeError, OverflowError):
        return False


def incomplete_rows(
    table: pd.DataFrame, settings: Mapping[str, ColumnSettings], cells: Mapping[str, Sequence[str]]
) -> pd.Series:
    """Return which rows have a missing value in a column with ``missing=drop``; `cells`: unparsed, in which NA is a name."""
    wrong = pd.Series(False, index=table.index)
    for name, own in settings.items():
        if own.missing == "drop" and name in table:
            numbers = numeric_column(table[name]) is not None
            written = cells.get(name) if not numbers else None
            wrong |= table[name].isna() if written is None else pd.Series([not cell.strip() for cell in written])
    return wrong


def useless_columns(table: pd.DataFrame) -> dict[str, str | None]:
    """Return the columns that add nothing: of one value (None), or equal to the column before them that is named."""
    useless: dict[str, str | None] = {}
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in table:
        column = table[name]
        sample = tuple(map(str, column.iloc[:: len(column) // SAMPLE + 1]))
        others = alike.setdefault(sample, [])
        if len(set(sample)) == 1 and column.nunique(dropna=False) <= 1:
            useless[name] = None
        elif other := next((other for other in others if table[other].equals(column)), None):
            useless[name] = other
        else:
            others.append(name)
    return useless


def warn_useless(table: pd.DataFrame) -> None:
    """Warn that columns of the training part are constant, or equal another one."""
    useless = useless_columns(table)
    constant = [name for name, other in useless.items() if other is None]
    copies = [f"{name} (as {other})" for name, other in useless.items() if other is not None]
    found = {"columns are constant": constant, "columns equal another one": copies}
    if listed := [f"{what}: {list_names(names)}" for what, names in found.items() if names]:
        warnings.warn(f"in the training part {'; '.join(listed)}", stacklevel=2)
