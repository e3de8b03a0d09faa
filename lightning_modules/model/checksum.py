"""Files of ``torch.save`` with a checksum: written atomically, verified in constant memory before they are loaded.

The SHA-256 is stored in the comment of the zip archive that ``torch.save`` writes: one rename publishes content and
checksum together, every copy contains it, and plain ``torch.load`` can read the file.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import psutil
import torch
from pytorch_lightning.utilities import rank_zero_warn

from lightning_modules.compat.torch import StateDict

_LABEL = b"touchstone sha256 "
_COMMENT_BYTES = len(_LABEL) + 64
_TRAILER_BYTES = 2 + _COMMENT_BYTES  # the comment and its length: the last fields of a zip archive
_END_RECORD_BYTES = 22  # bytes of the last record of an archive without a comment
_BLOCK_BYTES = 2**20
_warned: set[Path] = set()


class DamagedFileError(ValueError):
    """A file's content differs from what was written, or is truncated."""


def save_with_checksum(value: object, path: Path) -> None:
    """Write `value` with ``torch.save`` to a temporary file and rename it: a kill or a full disk leaves the old file intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("w+b") as file:
            torch.save(value, file)
            size = file.seek(-2, os.SEEK_END)
            comment = _LABEL + _sha256(file, size)
            file.seek(size)
            file.write(len(comment).to_bytes(2, "little") + comment)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def load_verified(path: Path, ours: bool = True) -> StateDict:
    """Load plain values and tensors to the CPU; nothing is unpickled.

    A file without a checksum is verified by the CRC-32 of its records; if it is `ours`, an earlier version wrote it, and
    a warning is shown once per file.

    Raises DamagedFileError, MemoryError, or torch's own errors for other file types.
    """
    with path.open("rb") as file:
        if _has_checksum(file):
            size = file.seek(-_TRAILER_BYTES, os.SEEK_END)
            if _sha256(file, size) != file.read()[-64:]:
                raise DamagedFileError("its content does not match its checksum")
            check_archive(file, crc=False)
        elif zipfile.is_zipfile(file):
            check_archive(file)
            if ours and path.resolve() not in _warned:
                _warned.add(path.resolve())
                rank_zero_warn(f"{path} has no checksum: an earlier version wrote it. Only its CRC-32 was verified.")
        elif ours:
            raise DamagedFileError("not a zip archive, or truncated")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_archive(file: BinaryIO, crc: bool = True) -> None:
    """Raise DamagedFileError for a zip archive that claims more bytes than it has, or has a wrong CRC-32.

    Torch stores its records uncompressed and does not check their CRC-32 when reading. Raises MemoryError if they do not
    fit into free memory.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            claimed = sum(record.file_size for record in records)
            if claimed > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise DamagedFileError(f"its records claim {claimed:,} bytes, but the file has {size:,}")
            if claimed > (free := psutil.virtual_memory().available):
                raise MemoryError(f"its records take {claimed:,} bytes, but {free:,} bytes are free")
            if crc and (bad := archive.testzip()):
                raise DamagedFileError(f"the CRC-32 of its record {bad} is wrong")
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError) as error:
        raise DamagedFileError(str(error)) from error


def _has_checksum(file: BinaryIO) -> bool:
    """Whether the file ends with a checksum. Raises DamagedFileError for an archive with a damaged end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TRAILER_BYTES))
    trailer = file.read()
    length = _COMMENT_BYTES.to_bytes(2, "little")
    if trailer.startswith(length + _LABEL):
        return True
    file.seek(0)
    is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive and not (trailer[-_END_RECORD_BYTES:].startswith(b"PK\x05\x06") and trailer.endswith(b"\0\0")):
        raise DamagedFileError("it is truncated, or its checksum is damaged")
    return False


def _sha256(file: BinaryIO, size: int) -> bytes:
    """The hexadecimal digest of the first `size` bytes; afterwards the file's position is behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()
