"""Paths of data and caches, atomic writing, and checks of declared sizes before a file is read."""

import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import home


def data_root(root: str | Path | None = None) -> Path:
    """Return `root`, else the environment's TOUCHSTONE_DATA, else ``data/`` beside the store."""
    return Path(root or os.environ.get("TOUCHSTONE_DATA") or home() / "data").expanduser()


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the user's cache folder (XDG_CACHE_HOME, ``~/.cache``); it may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(folder).expanduser() if folder else home / "touchstone"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a cache file atomically; an unwritable cache is not an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)


_DEFLATE_RATIO = 1032  # maximum compression ratio of gzip and zip (zlib's technical details)


def require_plausible(path: Path, declared: int, stored: int, ratio: int = 1) -> None:
    """Raise UserError unless `stored` bytes can contain the `declared` bytes, and those fit into free memory.

    Args:
        ratio: maximum compression ratio of the format.
    """
    if declared > ratio * stored:
        raise UserError(f"{path} is damaged: it declares {declared:,} bytes of content, but has {stored:,} bytes")
    require_memory(path, declared)


def require_memory(path: Path, declared: int) -> None:
    """Raise UserError if the content of a file does not fit into free memory."""
    if declared > (free := psutil.virtual_memory().available):
        raise UserError(f"{path} contains {declared:,} bytes, but only {free:,} bytes of memory are free")


def require_plausible_gzip(path: Path, declared: int) -> None:
    """`require_plausible` for a file that is gzipped if its suffix is .gz."""
    require_plausible(path, declared, path.stat().st_size, _DEFLATE_RATIO if path.suffix == ".gz" else 1)


def require_parquet_fits(path: Path) -> None:
    """Raise UserError if the rows declared by a .parquet file do not fit into free memory (its ratio is unbounded)."""
    from pyarrow.parquet import read_metadata

    declared = read_metadata(path)
    require_memory(path, 8 * declared.num_rows * declared.num_columns)


def read_npy(path: Path) -> np.ndarray:
    """Read an array of plain values. Raises UserError if the header declares more than the file contains."""
    with path.open("rb") as file:
        version, _ = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        require_plausible(path, math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell())
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path, names: Sequence[str], file: IO[bytes] | None = None) -> list[np.ndarray]:
    """Read the arrays `names` of an archive, or of its content in an open `file`.

    Raises UserError as `read_npy` does, and KeyError, ValueError or BadZipFile for another file.
    """
    with zipfile.ZipFile(file or path) as archive:
        members = archive.infolist()
        stored = sum(member.compress_size for member in members)
        require_plausible(path, sum(member.file_size for member in members), stored, _DEFLATE_RATIO)
    with np.load(file or path, allow_pickle=False) as arrays:
        return [arrays[name] for name in names]
