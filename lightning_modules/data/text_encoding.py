"""Text encodings: detected, or set in the config."""

import codecs
import warnings
from pathlib import Path

from lightning_modules.config.errors import UserError

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CHUNK_SIZE = 1 << 20


def check_encoding(encoding: str | None, key: str = "data.encoding") -> None:
    """Raise UserError unless Python knows the encoding, or it is None."""
    try:
        if encoding is not None:
            codecs.lookup(encoding)
    except (LookupError, TypeError) as error:
        text = f"{key}={encoding} is not an encoding: expected for example utf-8, utf-16 or cp1252, or null"
        raise UserError(text) from error


def detect_encoding(path: Path) -> str:
    """Return the encoding of a file: by its byte order mark, else UTF-16, UTF-8, Windows-1252 or Latin-1."""
    with path.open("rb") as opened:
        start = opened.read(4096)
    for mark, name in BOMS:
        if start.startswith(mark):
            return name
    zeros = [start[offset::2].count(0) / max(1, len(start) // 2) for offset in (0, 1)]
    if max(zeros) > 0.4 and min(zeros) < 0.05:  # western text in UTF-16: every other byte is 0
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    return next((name for name in ("utf-8", "cp1252") if _decodes(path, name)), "latin-1")


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding, newline="") as opened:
            while opened.read(CHUNK_SIZE):
                pass
    except UnicodeDecodeError:
        return False
    return True


def detect_encodings(paths: list[Path], encoding: str | None = None) -> list[str]:
    """Return the encoding of each file (`encoding` if given); warn once about files that are not Unicode."""
    if encoding is not None:
        return [encoding] * len(paths)
    found = [detect_encoding(path) for path in paths]
    guessed = [(path, name) for path, name in zip(paths, found, strict=True) if not name.startswith("utf")]
    if guessed:
        first, name = guessed[0]
        more = f" and {len(guessed) - 1} more files" if len(guessed) > 1 else ""
        warnings.warn(f"{first}{more}: not UTF-8, read as {name}; data.encoding sets the encoding", stacklevel=3)
    return found


def read_texts(paths: list[Path], encoding: str | None = None) -> list[str]:
    """Return the text of each file with its line ends unchanged.

    Raises UserError if a file cannot be decoded with the given `encoding`.
    """
    texts = []
    for path, name in zip(paths, detect_encodings(paths, encoding), strict=True):
        try:
            texts.append(path.read_bytes().decode(name))
        except UnicodeError as error:
            raise UserError(f"{path} cannot be decoded as {name}: {error}; set data.encoding, or null") from error
    return texts
