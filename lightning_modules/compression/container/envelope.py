"""The file around the tensors: a safetensors file of one byte tensor, its digest, and how it gets to disk whole."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.compression.container.header import decode_header, encode_header
from lightning_modules.config.errors import UserError

VERSION = 1
_TENSOR_NAME = "compressed"  # the name of the tensor, and the key of the metadata "VERSION SHA256"
_DIGEST_PLACEHOLDER = b"0" * 64  # stands in the digest's place while it is taken


def wrap(header: dict[str, Any], data: bytes) -> bytes:
    """The bytes of the file."""
    from safetensors.numpy import save

    whole = np.frombuffer(encode_header(header) + data, np.uint8)
    file = bytearray(save({_TENSOR_NAME: whole}, {_TENSOR_NAME: f"{VERSION} {_DIGEST_PLACEHOLDER.decode()}"}))
    at = file.index(_DIGEST_PLACEHOLDER)
    file[at : at + len(_DIGEST_PLACEHOLDER)] = hashlib.sha256(file).hexdigest().encode()
    return bytes(file)


def unwrap(path: Path) -> tuple[dict[str, Any], memoryview]:
    """The header and the data. Raises UserError for a file that is missing, damaged, newer, or another kind of file."""
    file = _read(path)
    try:
        return decode_header(_checked_tensor(path, file))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_file(path, error) from error


def damaged_file(path: Path, why: object) -> UserError:
    return UserError(f"{path} is no compressed model, or it is damaged ({why}): write or copy it again")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the compressed model {path}: {error.strerror}") from error


def _checked_tensor(path: Path, file: bytes) -> memoryview:
    """The bytes of the one tensor, checked. Raises UserError for a newer version, ValueError for any changed byte."""
    end = 8 + int.from_bytes(file[:8], "little")
    if not 8 < end <= len(file):
        raise ValueError("it is empty" if not file else f"it ends after {len(file)} bytes")
    outer = json.loads(file[8:end])
    version, _, digest = outer["__metadata__"][_TENSOR_NAME].partition(" ")
    if not version.isdecimal() or int(version) > VERSION:
        raise UserError(f"{path} is of format '{version}', and this version reads {VERSION}: update the harness")
    at = file.index(digest.encode(), 8, end)
    found = hashlib.sha256(file[:at])
    found.update(_DIGEST_PLACEHOLDER)
    found.update(memoryview(file)[at + len(_DIGEST_PLACEHOLDER) :])
    if found.hexdigest() != digest:
        raise ValueError("its sha256 is another")
    start, stop = outer[_TENSOR_NAME]["data_offsets"]
    if (start, stop) != (0, len(file) - end):
        raise ValueError("its tensor is not the file")
    return memoryview(file)[end:]


def write_atomic(path: Path, file: bytes) -> None:
    """Write it beside and rename, so that `path` is the old file or the whole new one. Raises UserError where it cannot."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with beside.open("wb") as stream:
                stream.write(file)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; what was there before is whole") from error
