"""A part of a Markdown file that a command writes: what stands between two marks."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.config.errors import UserError


def replace_section(path: Path | str, text: str, mark: str = "claims") -> bool:
    """Replace what stands between the lines ``<!-- claims -->`` and ``<!-- /claims -->`` of a file; whether it changed.

    The file is replaced as a whole or not at all. Marks within a line, as in a text about them, do not count.

    Raises:
        UserError: the file is not there, or does not have both marks once and in this order.
    """
    target = Path(path).resolve()  # a link stays a link
    lines, start, end = find_section(path, mark)
    newline = "\r\n" if lines[start].endswith("\r\n") else "\n"
    between = newline.join(["", *text.strip("\n").split("\n"), "", ""])
    written = ("".join(lines[: start + 1]) + between + "".join(lines[end:])).encode()
    return written != target.read_bytes() and _write_atomically(target, written)


def find_section(path: Path | str, mark: str = "claims") -> tuple[list[str], int, int]:
    """The lines of a file, and the places of both marks among them. Raises UserError as `write_between` does."""
    target = Path(path).resolve()
    if not target.is_file():
        raise UserError(f"{path}: there is no such file to write the table to")
    lines = target.read_bytes().decode().splitlines(keepends=True)
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    places = [[number for number, line in enumerate(lines) if line.strip() == sought] for sought in (opening, closing)]
    (start, end) = (found[0] if len(found) == 1 else -1 for found in places)
    if start < 0 or end < start:
        raise UserError(
            f"{path}: the table is written between a line {opening} and, below it, a line {closing}; "
            f"lines with them: {_line_numbers(places[0])} and {_line_numbers(places[1])}"
        )
    return lines, start, end


def _line_numbers(places: Sequence[int]) -> str:
    return ", ".join(str(place + 1) for place in places) or "none"


def _write_atomically(target: Path, content: bytes) -> bool:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        shutil.copymode(target, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return True
