"""What a file declares to hold, checked against its size and the free memory before anything is allocated."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from lightning_modules.config.errors import UserError

_DEFLATE_RATIO = 1032  # the most that gzip and zip can compress (zlib's technical details)


def require_plausible(path: Path, declared: int, stored: int, ratio: int = 1) -> None:
    """Raise UserError unless `stored` bytes of a file can hold the `declared` ones, and these fit into free memory.

    Args:
        ratio: by how much the format can compress.
    """
    if declared > ratio * stored:
        raise UserError(f"{path} is damaged: it declares {declared:,} bytes of content, but has {stored:,} bytes")
    require_memory(path, declared)


def require_memory(path: Path, declared: int) -> None:
    """Raise UserError where the content of a file does not fit into free memory."""
    if declared > (free := psutil.virtual_memory().available):
        raise UserError(f"{path} holds {declared:,} bytes of content, but {free:,} bytes of memory are free")


def require_plausible_gzip(path: Path, declared: int) -> None:
    """`require_plausible` of a file that may be compressed by gzip, as its name says."""
    require_plausible(path, declared, path.stat().st_size, _DEFLATE_RATIO if path.suffix == ".gz" else 1)


def require_parquet_fits(path: Path) -> None:
    """Raise UserError where the rows that a .parquet file declares do not fit into free memory; no ratio bounds them."""
    from pyarrow.parquet import read_metadata

    declared = read_metadata(path)
    require_memory(path, 8 * declared.num_rows * declared.num_columns)


def read_npy(path: Path) -> np.ndarray:
    """Read an array of plain values. Raises UserError where its header declares more than the file holds, else ValueError."""
    with path.open("rb") as file:
        version, _ = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        require_plausible(path, math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell())
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path, names: Sequence[str], file: IO[bytes] | None = None) -> list[np.ndarray]:
    """Read arrays of an archive, or of an open `file` that was read from it.

    Raises UserError as `read_npy` does, and KeyError, ValueError or BadZipFile for another file.
    """
    with zipfile.ZipFile(file or path) as archive:
        members = archive.infolist()
        stored = sum(member.compress_size for member in members)
        require_plausible(path, sum(member.file_size for member in members), stored, _DEFLATE_RATIO)
    with np.load(file or path, allow_pickle=False) as arrays:
        return [arrays[name] for name in names]
