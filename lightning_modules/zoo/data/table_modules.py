"""Preparation of table columns as a module: raw float64 [B, F] with NaN for missing values -> model input [B, D].

All fitted values are arguments of the constructors, so that a checkpoint contains them as plain values. Longer than 200 lines:
each kind of column takes a few.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

DAY = 86_400  # seconds


class DateColumns(nn.Module):
    """Appends parts of dates (seconds since 1970, UTC) to the raw columns; NaN where the date is missing."""

    def __init__(self, columns: Sequence[int], parts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.columns, self.parts = list(columns), [list(names) for names in parts]

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for column, names in zip(self.columns, self.parts, strict=True):
            values = date_parts(x[:, column])
            found += [values[name][:, None] for name in names]
        return torch.cat(found, 1) if self.columns else x


def date_parts(seconds: Tensor) -> dict[str, Tensor]:
    """Return year, month, day (from 1), weekday (Monday is 0) and hour in the Gregorian calendar."""
    days = (seconds / DAY).floor()
    since = days + 719_468  # days since 0000-03-01, the first day of a 400-year cycle whose years end with February
    cycle = (since / 146_097).floor()
    day = since - cycle * 146_097
    leaps = (day / 1460).floor() - (day / 36_524).floor() + (day / 146_096).floor()
    year = ((day - leaps) / 365).floor()
    day_of_year = day - (365 * year + (year / 4).floor() - (year / 100).floor())
    month = ((5 * day_of_year + 2) / 153).floor()  # from March
    day_of_month = day_of_year - ((153 * month + 2) / 5).floor() + 1
    month = torch.where(month < 10, month + 3, month - 9)
    year = year + cycle * 400 + (month <= 2).to(year.dtype)
    weekday = (days + 3) - ((days + 3) / 7).floor() * 7
    hour = ((seconds - days * DAY) / 3600).floor()
    return {"year": year, "month": month, "day": day_of_month, "weekday": weekday, "hour": hour}


class NumberColumns(nn.Module):
    """Fills, transforms and scales columns; then a column of 0 and 1 for each of `indicators`: whether it was missing.

    In this order: a missing value becomes `fill`; with `log` sign(v) log(1 + |v|); clipped to `low` … `high`; Yeo-Johnson's
    transform of columns `powered`, with exponent `power`; ``(v - shift) / scale``; the quantile in [0, 1] of columns `ranked`,
    whose `quantiles` [q, n] ascend. `columns` and `indicators` are positions in x.
    """

    def __init__(
        self,
        columns: Sequence[int],
        fill: Sequence[float],
        log: Sequence[bool],
        low: Sequence[float],
        high: Sequence[float],
        shift: Sequence[float],
        scale: Sequence[float],
        powered: Sequence[int] = (),
        power: Sequence[float] = (),
        ranked: Sequence[int] = (),
        quantiles: Sequence[Sequence[float]] = (),
        indicators: Sequence[int] = (),
    ) -> None:
        super().__init__()
        values = {"fill": fill, "low": low, "high": high, "power": power, "shift": shift, "scale": scale}
        for name, value in (values | {"quantiles": quantiles}).items():
            self.register_buffer(name, torch.tensor(list(value), dtype=torch.float64), persistent=False)
        for name, index in {"columns": columns, "powered": powered, "ranked": ranked, "indicators": indicators}.items():
            self.register_buffer(name, torch.tensor(list(index), dtype=torch.int64), persistent=False)
        self.register_buffer("log", torch.tensor(list(log), dtype=torch.bool), persistent=False)
        self.has_log = any(log)
        self.fitted = True
        self.fill: Tensor
        self.low: Tensor
        self.high: Tensor
        self.power: Tensor
        self.shift: Tensor
        self.scale: Tensor
        self.quantiles: Tensor
        self.columns: Tensor
        self.powered: Tensor
        self.ranked: Tensor
        self.indicators: Tensor
        self.log: Tensor

    def forward(self, x: Tensor) -> Tensor:
        v = x[:, self.columns]
        v = torch.where(v.isnan(), self.fill, v)
        if self.has_log:
            v = torch.where(self.log, v.sign() * v.abs().log1p(), v)
        v = torch.minimum(torch.maximum(v, self.low), self.high)
        if len(self.powered):
            v = v.index_copy(1, self.powered, yeo_johnson(v[:, self.powered], self.power))
        v = (v - self.shift) / self.scale
        if len(self.ranked):
            v = v.index_copy(1, self.ranked, quantile_of(v[:, self.ranked], self.quantiles))
        return torch.cat([v, x[:, self.indicators].isnan().to(v.dtype)], 1)


def yeo_johnson(v: Tensor, power: Tensor) -> Tensor:
    """Yeo and Johnson 2000, "A new family of power transformations to improve normality or symmetry", eq. 2.1."""
    up, down = v.clamp_min(0).log1p(), (-v).clamp_min(0).log1p()
    rest = 2 - power
    # where an exponent is 0, the other value of `where` must be finite
    above = torch.where(power.abs() < 1e-12, up, (power * up).expm1() / torch.where(power.abs() < 1e-12, 1.0, power))
    below = torch.where(rest.abs() < 1e-12, down, (rest * down).expm1() / torch.where(rest.abs() < 1e-12, 1.0, rest))
    return torch.where(v >= 0, above, -below)


def quantile_of(v: Tensor, quantiles: Tensor) -> Tensor:
    """Return the quantile in [0, 1] of v [B, n], interpolated in `quantiles` [q, n]; of equal ones the middle."""
    last = len(quantiles) - 1
    middle = (_rank(v, quantiles, last, left=True) + _rank(v, quantiles, last, left=False)) / 2
    return torch.where(v >= quantiles[-1], 1.0, torch.where(v <= quantiles[0], 0.0, middle))


def _rank(v: Tensor, quantiles: Tensor, last: int, left: bool) -> Tensor:
    below = quantiles < v[:, None] if left else quantiles <= v[:, None]
    index = (below.sum(1) - 1).clamp(0, last - 1)
    low, high = quantiles.gather(0, index), quantiles.gather(0, index + 1)
    beyond = ((v > low) if left else (v >= low)).to(v.dtype)
    share = torch.where(high > low, (v - low) / torch.where(high > low, high - low, 1.0), beyond)
    return (index + share.clamp(0, 1)) / last


class OneHotColumn(nn.Module):
    """One-hot encoding of the category in `column`: `slots` are the slot of each category, of missing values and of others."""

    def __init__(self, column: int, slots: Sequence[int]) -> None:
        super().__init__()
        self.column, self.fitted = column, True
        self.register_buffer("slots", torch.tensor(list(slots)), persistent=False)
        self.slots: Tensor
        self.width = max(slots) + 1

    def forward(self, x: Tensor) -> Tensor:
        return (self.slot(x) == torch.arange(self.width, device=x.device)).to(x.dtype)

    def slot(self, x: Tensor) -> Tensor:
        """Return the slot int64 [B, 1] of each sample."""
        return self.slots[category_rows(x[:, self.column], len(self.slots) - 2)][:, None]


class SlotColumn(OneHotColumn):
    """The slot itself, which the network embeds; the last one is of categories that the training part does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.slot(x).to(x.dtype)


class LookupColumn(nn.Module):
    """The `values` [K + 2, D] of the category in `column`, the last two of missing values and of others.

    `folds` [k (K + 1), D] are those of training samples, each computed from the other folds; see `fold_codes`.
    """

    def __init__(self, column: int, values: Sequence[Sequence[float]], folds: Sequence[Sequence[float]] = ()) -> None:
        super().__init__()
        self.column, self.fitted = column, True
        for name, rows in {"values": values, "folds": folds}.items():
            table = torch.tensor([list(row) for row in rows], dtype=torch.float64).reshape(len(rows), len(values[0]))
            self.register_buffer(name, table, persistent=False)
        self.values: Tensor
        self.folds: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.values, self.folds])[
            category_rows(x[:, self.column], len(self.values) - 2, len(self.folds))
        ]


def category_rows(codes: Tensor, count: int, fold_rows: int = 0) -> Tensor:
    """Return the row of each code: itself if known, `count` if missing (NaN), `count` + 1 for every other value."""
    known = ((codes >= 0) & (codes < count)) | ((codes >= count + 2) & (codes < count + 2 + fold_rows))
    return torch.where(codes.isnan(), float(count), torch.where(known, codes, count + 1.0)).long()


def fold_codes(codes: Tensor, fold: Tensor, count: int) -> Tensor:
    """Return the codes of training samples in their folds: the rows of `LookupColumn.folds` follow the other values."""
    return count + 2 + fold * (count + 1) + torch.where(codes.isnan(), float(count), codes)


class PreparedTable(nn.Module):
    """The prepared columns side by side: numbers, indicators of missing values, categories, slots that are embedded.

    Args:
        dates: appends parts of dates to the raw columns.
        numbers: prepares columns of numbers.
        categories: an encoder for each column of categories.
        settings: bytes of a hash of the settings of all columns; part of the data fingerprint, which the fitted values are not.
    """

    def __init__(
        self, dates: nn.Module, numbers: nn.Module, categories: nn.Sequential, settings: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.dates, self.numbers, self.categories = dates, numbers, categories
        self.register_buffer("settings", torch.tensor(list(settings), dtype=torch.uint8), persistent=False)
        self.register_buffer("unit", torch.ones(()), persistent=False)
        self.unit: Tensor

    @property
    def category_sizes(self) -> list[int]:
        """How many slots each of the last columns has that the network embeds."""
        return [encoder.width for encoder in self.categories if isinstance(encoder, SlotColumn)]

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            raise UserError("prepared columns need float64: use trainer.precision=32-true or a mixed precision")
        x = self.dates(x.double())
        return torch.cat([self.numbers(x), *(encode(x) for encode in self.categories)], 1).to(self.unit.dtype)
