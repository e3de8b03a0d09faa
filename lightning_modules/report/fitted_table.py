"""A table that fits the terminal."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text


class FittedTable(Table):
    """A rich table. Where it is wider than the terminal, columns with one value in all rows are in a line below it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [(column, [str(cell) for cell in column.cells]) for column in self.columns]
        width = console.measure(self, options=options.update(max_width=100_000)).maximum
        constant = [(column, cells) for column, cells in columns if len(cells) > 1 and len(set(cells)) == 1]
        if width <= options.max_width or not constant or len(constant) == len(columns):
            yield from super().__rich_console__(console, options)
            return
        shown = [column for column, cells in columns if (column, cells) not in constant]
        table = Table(title=self.title, title_justify=self.title_justify)
        for column in shown:
            table.add_column(column.header, justify=column.justify, overflow=column.overflow)
        for cells, row in zip(zip(*(column.cells for column in shown), strict=True), self.rows, strict=True):
            table.add_row(*cells, style=row.style)
        yield table
        yield Text("all rows: " + ", ".join(f"{column.header} = {cells[0] or '(empty)'}" for column, cells in constant))
