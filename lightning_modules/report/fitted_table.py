"""A table that fits the terminal."""

import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.containers import Lines
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_PART = re.compile(r"[^\s/_=,]*[\s/_=,]*")  # of a cell, up to the separator behind which a line may end
_FRAME = 3  # columns of the terminal that each column of a table takes beside its text; and one at the end


class FittedTable(Table):
    """A rich table. Where it is wider than the terminal, columns with one value in all rows are in a line below it, and cells
    are broken at spaces and behind ``/ _ = ,``, within a word only if nothing else is left."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [(column, [str(cell) for cell in column.cells]) for column in self.columns]
        width = console.measure(self, options=options.update(max_width=100_000)).maximum
        if width <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        constant = [(column, cells) for column, cells in columns if len(cells) > 1 and len(set(cells)) == 1]
        constant = [] if len(constant) == len(columns) else constant
        shown = [column for column, cells in columns if (column, cells) not in constant]
        widths = _column_widths(shown, options.max_width)
        table = Table(title=self.title, title_justify=self.title_justify)
        for column, fitted in zip(shown, widths, strict=True):
            header = BrokenText(str(column.header))
            table.add_column(header, justify=column.justify, overflow=column.overflow, width=fitted)
        for cells, row in zip(zip(*(column.cells for column in shown), strict=True), self.rows, strict=True):
            table.add_row(*map(BrokenText.of, cells), style=row.style)
        yield table
        if constant:
            text = ", ".join(f"{column.header} = {cells[0] or '(empty)'}" for column, cells in constant)
            yield Text(f"all rows: {text}")


def _column_widths(columns: Sequence[Column], available: int) -> list[int | None]:
    """The width of each column, none narrower than its longest part; None, rich's choice, if these do not fit or all do."""
    texts = [[str(text) for text in (column.header, *column.cells)] for column in columns]
    least = [max(len(part.rstrip()) for text in of_one for part in _PART.findall(text)) for of_one in texts]
    spare = available - sum(least) - _FRAME * len(columns) - 1
    wanted = [max(map(len, of_one)) - width for of_one, width in zip(texts, least, strict=True)]
    if spare < 0 or sum(wanted) <= spare:
        return [None] * len(columns)
    more = dict.fromkeys(range(len(columns)), 0)
    for left, position in zip(range(len(columns), 0, -1), sorted(more, key=wanted.__getitem__), strict=True):
        more[position] = min(wanted[position], spare // left)
        spare -= more[position]
    return [width + more[position] for position, width in enumerate(least)]


class BrokenText(Text):
    """A text whose lines end at spaces and separators."""

    @classmethod
    def of(cls, cell: RenderableType) -> RenderableType:
        """The same text, with its styles."""
        return cls.assemble(cell) if isinstance(cell, Text) else cell

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(len(part.rstrip()) for part in _PART.findall(self.plain)), len(self.plain))

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        """As `Text.wrap`, with a line break before each part that would not fit."""
        breaks, used = [], 0
        for part in _PART.finditer(self.plain):
            if used and part[0] and used + len(part[0].rstrip()) > width:
                breaks.append(part.start())
                used = 0
            used += len(part[0])
        return Text.wrap(Text("\n").join(self.divide(breaks)), console, width, **options)
