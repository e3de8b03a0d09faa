"""Tables for the terminal (rich), Markdown, LaTeX and CSV, with their escaping; and where Markdown files have them."""

import csv
import io
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.config.errors import UserError
from lightning_modules.report.numbers import EMPTY

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

FIRST = (0,)  # the usual text columns; all others are right-aligned numbers
_LATEX_ESCAPES = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", EMPTY: "--",
    "[": "{[}", "]": "{]}", "|": r"\textbar{}",
}  # fmt: skip  # a [ after \\ would be read as its argument


def open_console(min_width: int = 160) -> "Console":
    """A rich console. Output to a file or a pipe, which has no width of its own, is at least `min_width` wide."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, min_width)
    return console


def terminal_table(
    columns: Sequence[str],
    rows: "Iterable[Sequence[str | Text]]",
    left: Collection[int] = FIRST,
    title: str | None = None,
    styles: Sequence[str] = (),
) -> "Table":
    """A rich table whose texts are shown as they are, without markup. See `FittedTable` for one that is too wide.

    Args:
        left: the positions of left-aligned columns.
        styles: a style for each row, none by default.
    """
    from rich.text import Text

    from lightning_modules.report.fitted_table import FittedTable

    table = FittedTable(title=Text(title, style="bold") if title else None, title_justify="left")
    for position, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if position in left else "right", overflow="fold")
    for number, row in enumerate(rows):
        cells = (cell if isinstance(cell, Text) else Text(cell) for cell in row)
        table.add_row(*cells, style=styles[number] if styles else "")
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = FIRST) -> str:
    """A Markdown table. The cells are Markdown: `escape_markdown` makes them of other text."""
    rule = ["---" if position in left else "--:" for position in range(len(columns))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, rule, *rows])


def latex_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = FIRST) -> str:
    r"""A ``tabular`` for ``\usepackage{booktabs}``, with escaped cells."""
    alignment = "".join("l" if position in left else "r" for position in range(len(columns)))
    head, *lines = (" & ".join(map(escape_latex, line)) + r" \\" for line in [columns, *rows])
    body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{alignment}}}\n{body}\n\\end{{tabular}}\n"


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a header; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def escape_markdown(text: str) -> str:
    """Escape text for a cell or a line of Markdown."""
    return re.sub(r"([\\|*_`<>\[\]#~])", r"\\\1", text).replace("\n", " ")


def escape_latex(text: str) -> str:
    """Escape text for a cell of LaTeX; a minus becomes one of mathematics."""
    text = "".join(_LATEX_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text).replace("…", r"\ldots{}")


# --- sections of Markdown files that commands write, between two marker lines ----------------------------------------
def replace_section(path: Path | str, text: str, mark: str = "claims") -> bool:
    """Replace the lines between ``<!-- claims -->`` and ``<!-- /claims -->``; return whether the file changed.

    The file is replaced atomically. Only markers on a line of their own count.

    Raises:
        UserError: the file does not exist, or does not have both markers exactly once and in this order.
    """
    target = Path(path).resolve()  # do not replace a symbolic link
    lines, start, end = find_section(path, mark)
    newline = "\r\n" if lines[start].endswith("\r\n") else "\n"
    between = newline.join(["", *text.strip("\n").split("\n"), "", ""])
    written = ("".join(lines[: start + 1]) + between + "".join(lines[end:])).encode()
    return written != target.read_bytes() and _write_atomically(target, written)


def find_section(path: Path | str, mark: str = "claims") -> tuple[list[str], int, int]:
    """The lines of a file, and the positions of both markers. Raises UserError as `replace_section` does."""
    target = Path(path).resolve()
    if not target.is_file():
        raise UserError(f"{path}: no such file to write the table to")
    lines = target.read_bytes().decode().splitlines(keepends=True)
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    places = [[number for number, line in enumerate(lines) if line.strip() == sought] for sought in (opening, closing)]
    (start, end) = (found[0] if len(found) == 1 else -1 for found in places)
    if start < 0 or end < start:
        found = " and ".join(", ".join(str(place + 1) for place in each) or "none" for each in places)
        raise UserError(
            f"{path}: expected a line {opening} and, below it, a line {closing} around the table; found on lines {found}"
        )
    return lines, start, end


def _write_atomically(target: Path, content: bytes) -> bool:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        shutil.copymode(target, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return True
