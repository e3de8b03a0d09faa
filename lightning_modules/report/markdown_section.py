"""Sections of Markdown files that commands write, between two marker lines."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.config.errors import UserError


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
        raise UserError(
            f"{path}: expected a line {opening} and, below it, a line {closing} around the table; "
            f"found on lines {_line_numbers(places[0])} and {_line_numbers(places[1])}"
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
