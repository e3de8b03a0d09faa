"""Reads a compressed file."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.container.decode import decode_tensors
from lightning_modules.compression.container.envelope import damaged_file, unwrap
from lightning_modules.compression.container.zstd_frame import Buffer
from lightning_modules.config.errors import UserError


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], CompressedState]:
    """The header of the writer, the tensors by name, and what they are made of, on the CPU.

    Raises UserError for a file that is missing, cut off, changed in any byte, newer, or another kind of file.
    """
    header, data = unwrap(path)
    return decode_file(path, header, data)


def read_header(path: Path) -> dict[str, Any]:
    """The header of the writer alone. Raises UserError as `read` does."""
    header, _ = unwrap(path)
    return _header_part(path, header, "header", dict)


def decode_file(
    path: Path, header: dict[str, Any], data: Buffer
) -> tuple[dict[str, Any], dict[str, Tensor], CompressedState]:
    """As `read`, of a file that was opened; `path` is for messages."""
    own, steps = _header_part(path, header, "header", dict), _header_part(path, header, "steps", list)
    records, pools = _header_part(path, header, "tensors", list), _header_part(path, header, "pools", dict)
    try:
        tensors, state = decode_tensors(records, pools, data)
    except MemoryError as error:
        raise UserError(f"The compressed model {path} does not fit into memory: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} is coded in a way that this version does not know: {error}") from error
    except (ValueError, IndexError, TypeError, RuntimeError, OverflowError) as error:
        raise damaged_file(path, error) from error
    state.steps = steps
    return own, tensors, state


def _header_part(path: Path, header: dict[str, Any], key: str, kind: type) -> Any:
    part = header.get(key) if isinstance(header, dict) else None
    if not isinstance(part, kind):
        raise damaged_file(path, f"its header has no {key}")
    return part
