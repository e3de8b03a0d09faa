"""A comparison as a rich table, Markdown, LaTeX and CSV."""

from typing import TYPE_CHECKING

from lightning_modules.comparison.result import Comparison, Row
from lightning_modules.report.numbers import EMPTY, NumberFormatter, format_interval, format_p, spread_formatter
from lightning_modules.report.tables import csv_table, escape_markdown, latex_table, markdown_table, terminal_table

if TYPE_CHECKING:
    from rich.table import Table

MAX_TERMINAL_ROWS = 40  # rows in the terminal; files contain all


def formatter(comparison: Comparison) -> NumberFormatter:
    """The number format of a comparison."""
    return spread_formatter((row.std for row in comparison.rows), (row.mean for row in comparison.rows))


def column_names(comparison: Comparison) -> list[str]:
    """Column names."""
    tested = ["difference", "95 % interval of it", "pairs", "p", "p (Holm)"] if comparison.baseline else []
    return [*(comparison.by or ["runs"]), "n", "mean", "std", "95 % interval", *tested]


def _text_columns(comparison: Comparison) -> range:
    return range(len(comparison.by) or 1)


def row_cells(comparison: Comparison, row: Row, write: NumberFormatter) -> list[str]:
    """The cells of a row, in the order of `column_names`."""
    count = f"{row.n} (+{row.not_finite} not finite)" if row.not_finite else str(row.n)
    interval = format_interval(row.interval, write) or EMPTY
    own = [*(row.values or ["all"]), count, write(row.mean), write(row.std), interval]
    if not comparison.baseline:
        return own
    if row.is_baseline:
        return [*own, "baseline", "", "", "", ""]
    d = row.difference
    if d is None or d.mean is None:
        return [*own, EMPTY, EMPTY, "0", EMPTY, EMPTY]
    interval = format_interval(d.interval, write) or EMPTY
    return [*own, write(d.mean, sign=True), interval, str(d.pairs), format_p(d.p), format_p(d.p_holm)]


def to_rich(comparison: Comparison) -> "Table":
    """A rich table of the best rows and the baseline, with significant differences in bold."""
    write = formatter(comparison)
    shown = [row for place, row in enumerate(comparison.rows) if place < MAX_TERMINAL_ROWS or row.is_baseline]
    return terminal_table(
        column_names(comparison),
        [row_cells(comparison, row, write) for row in shown],
        left=_text_columns(comparison),
        title=comparison.title,
        styles=["bold" if row.is_significant else "" for row in shown],
    )


def to_markdown(comparison: Comparison) -> str:
    """Title, table with significant p-values in bold, and notes."""
    write = formatter(comparison)
    names = [escape_markdown(name) for name in column_names(comparison)]
    lines = []
    for row in comparison.rows:
        *cells, last = (escape_markdown(cell) for cell in row_cells(comparison, row, write))
        lines.append([*cells, f"**{last}**" if row.is_significant else last])
    table = markdown_table(names, lines, left=_text_columns(comparison))
    notes = "".join(f"- {escape_markdown(note)}\n" for note in comparison.notes)
    return f"### {escape_markdown(comparison.title)}\n\n{table}\n\n{notes}"


def to_latex(comparison: Comparison) -> str:
    """A LaTeX table, with the title and the notes as comments above it."""
    write = formatter(comparison)
    comments = "".join(f"% {' '.join(text.split())}\n" for text in (comparison.title, *comparison.notes))
    rows = (row_cells(comparison, row, write) for row in comparison.rows)
    return comments + latex_table(column_names(comparison), rows, left=_text_columns(comparison))


def to_csv(comparison: Comparison) -> str:
    """Unrounded numbers, the value of each seed and the run ids; a missing number is an empty cell."""
    tested = ["pairs", "difference", "difference_low", "difference_high", "p", "p_holm", "is_baseline"]
    plain = ["n", "mean", "std", "low", "high", "not_finite"]
    rows: list[list[object]] = []
    for row in comparison.rows:
        numbers = [row.n, row.mean, row.std, *(row.interval or (None, None)), row.not_finite]
        d = row.difference
        compared = [d.pairs, d.mean, *(d.interval or (None, None)), d.p, d.p_holm] if d else [None] * 6
        compared = [*compared, row.is_baseline] if comparison.baseline else []
        rows.append([*row.values, *numbers, *compared, " ".join(map(str, row.points)), " ".join(row.runs)])
    columns = [*comparison.by, *plain, *(tested if comparison.baseline else []), "values", "runs"]
    return csv_table(columns, rows)
