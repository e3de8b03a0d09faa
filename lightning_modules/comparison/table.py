"""A comparison as a rich table, Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from lightning_modules.comparison.compare import Comparison, Row
from lightning_modules.report.statistics import ALPHA, Interval

EMPTY = "–"
MAX_TERMINAL_ROWS = 40  # rows in the terminal; files contain all
_LATEX_ESCAPES = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", EMPTY: "--",
    "[": "{[}", "]": "{]}", "|": r"\textbar{}",
}  # fmt: skip  # a [ after \\ would be read as its argument


def column_names(comparison: Comparison) -> list[str]:
    """Column names."""
    keys = list(comparison.by) or ["runs"]
    tested = ["difference", "95 % interval of it", "pairs", "p", "p (Holm)"] if comparison.baseline else []
    return [*keys, "n", "mean", "std", "95 % interval", *tested]


def row_cells(comparison: Comparison, row: Row, number: Callable[[float | None], str]) -> list[str]:
    """The cells of a row, in the order of `header`."""
    count = f"{row.n} (+{row.not_finite} not finite)" if row.not_finite else str(row.n)
    own = [*(row.values or ["all"]), count, number(row.mean), number(row.std), _format_interval(row.interval, number)]
    if not comparison.baseline:
        return own
    if row.is_baseline:
        return [*own, "baseline", "", "", "", ""]
    d = row.difference
    if d is None or d.mean is None:
        return [*own, EMPTY, EMPTY, "0", EMPTY, EMPTY]
    sign = "+" if d.mean > 0 else ""
    return [
        *own,
        sign + number(d.mean),
        _format_interval(d.interval, number),
        str(d.pairs),
        _format_p(d.p),
        _format_p(d.p_holm),
    ]


def _format_interval(interval: Interval | None, number: Callable[[float | None], str]) -> str:
    return f"[{number(interval.low)}, {number(interval.high)}]" if interval else EMPTY


def _format_p(p: float | None) -> str:
    return EMPTY if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def is_significant(row: Row) -> bool:
    """Whether the difference to the baseline is significant at 0.05 after Holm's correction."""
    return row.difference is not None and row.difference.p_holm is not None and row.difference.p_holm < ALPHA


def decimals_from_std(comparison: Comparison) -> Callable[[float | None], str]:
    """A formatter with as many decimals as give the median standard deviation two digits."""
    spreads = sorted(row.std for row in comparison.rows if row.std)
    largest = max((abs(row.mean) for row in comparison.rows if row.mean is not None), default=0.0)
    decimals = 1 - math.floor(math.log10(spreads[len(spreads) // 2])) if spreads else 4
    kind = f".{min(max(decimals, 2), 8)}f" if largest < 1e6 else ".5g"
    return lambda value: EMPTY if value is None else format(value, kind)


def to_rich(comparison: Comparison) -> Any:
    """A rich table of the best rows and the baseline, with significant differences in bold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(comparison.title), title_justify="left")
    first_number = len(comparison.by) or 1
    for place, name in enumerate(column_names(comparison)):
        table.add_column(Text(name), justify="left" if place < first_number else "right", overflow="fold")
    number = decimals_from_std(comparison)
    for place, row in enumerate(comparison.rows):
        if place < MAX_TERMINAL_ROWS or row.is_baseline:
            style = "bold" if is_significant(row) else ""
            table.add_row(*(Text(cell) for cell in row_cells(comparison, row, number)), style=style)
    return table


def to_markdown(comparison: Comparison) -> str:
    """Title, table with significant p-values in bold, and notes."""
    names, number = column_names(comparison), decimals_from_std(comparison)
    first_number = len(comparison.by) or 1
    rule = ["---" if place < first_number else "--:" for place in range(len(names))]
    lines = [
        _bold_p([escape_markdown(cell) for cell in row_cells(comparison, row, number)], row) for row in comparison.rows
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [[escape_markdown(name) for name in names], rule, *lines])
    said = "".join(f"- {escape_markdown(note)}\n" for note in comparison.notes)
    return f"### {escape_markdown(comparison.title)}\n\n{table}\n\n{said}"


def _bold_p(line: list[str], row: Row) -> list[str]:
    return [*line[:-1], f"**{line[-1]}**"] if is_significant(row) else line


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text).replace("\n", " ")


def to_latex(comparison: Comparison) -> str:
    r"""A ``tabular`` for ``\usepackage{booktabs}``, with the title and the notes as comments above it."""
    number = decimals_from_std(comparison)
    texts = len(comparison.by) or 1
    columns = "l" * texts + "r" * (len(column_names(comparison)) - texts)
    lines = [" & ".join(map(escape_latex, row_cells(comparison, row, number))) + r" \\" for row in comparison.rows]
    said = "".join(f"% {' '.join(text.split())}\n" for text in (comparison.title, *comparison.notes))
    head = " & ".join(map(escape_latex, column_names(comparison))) + r" \\"
    body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    return f"{said}\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def escape_latex(text: str) -> str:
    text = "".join(_LATEX_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text).replace("…", r"\ldots{}")


def to_csv(comparison: Comparison) -> str:
    """Unrounded numbers, the value of each seed and the run ids; a missing number is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tested = ["pairs", "difference", "difference_low", "difference_high", "p", "p_holm", "is_baseline"]
    plain = ["n", "mean", "std", "low", "high", "not_finite"]
    writer.writerow([*comparison.by, *plain, *(tested if comparison.baseline else []), "values", "runs"])
    for row in comparison.rows:
        numbers: list[Any] = [row.n, row.mean, row.std, *(row.interval or (None, None)), row.not_finite]
        compared = _difference_numbers(row) if comparison.baseline else []
        writer.writerow([*row.values, *numbers, *compared, _join(row.points), _join(row.runs)])
    return out.getvalue()


def _difference_numbers(row: Row) -> list[Any]:
    d = row.difference
    if d is None:
        return [None] * 6 + [row.is_baseline]
    return [d.pairs, d.mean, *(d.interval or (None, None)), d.p, d.p_holm, row.is_baseline]


def _join(values: Sequence[Any]) -> str:
    return " ".join(map(str, values))
