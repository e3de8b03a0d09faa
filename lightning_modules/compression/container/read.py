"""Reads a compressed file."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.compression.container.decode import decode
from lightning_modules.compression.container.envelope import damaged, unseal
from lightning_modules.compression.container.frame import Buffer
from lightning_modules.compression.form import Form
from lightning_modules.errors import UserError


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Form]:
    """The header of the writer, the tensors by name, and what they are made of, on the CPU.

    Raises UserError for a file that is missing, cut off, changed in any byte, newer, or another kind of file.
    """
    header, data = unseal(path)
    return decode_file(path, header, data)


def read_header(path: Path) -> dict[str, Any]:
    """The header of the writer alone. Raises UserError as `read` does."""
    header, _ = unseal(path)
    return _part(path, header, "header", dict)


def decode_file(path: Path, header: dict[str, Any], data: Buffer) -> tuple[dict[str, Any], dict[str, Tensor], Form]:
    """As `read`, of a file that was opened; `path` is for messages."""
    own, steps = _part(path, header, "header", dict), _part(path, header, "steps", list)
    records, pools = _part(path, header, "tensors", list), _part(path, header, "pools", dict)
    try:
        tensors, form = decode(records, pools, data)
    except MemoryError as error:
        raise UserError(f"The compressed model {path} does not fit into memory: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} is coded in a way that this version does not know: {error}") from error
    except (ValueError, IndexError, TypeError, RuntimeError, OverflowError) as error:
        raise damaged(path, error) from error
    form.steps = steps
    return own, tensors, form


def _part(path: Path, header: dict[str, Any], key: str, kind: type) -> Any:
    part = header.get(key) if isinstance(header, dict) else None
    if not isinstance(part, kind):
        raise damaged(path, f"its header has no {key}")
    return part
