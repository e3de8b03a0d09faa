"""Reads a compressed file without unpickling; no memory is allocated before its size is compared with the file's."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantGrid, QuantizedWeight
from lightning_modules.compression.container.envelope import Header, damaged_file, unwrap
from lightning_modules.compression.container.symbol_codecs import Buffer, decode_symbols
from lightning_modules.compression.container.tensor_encoding import (
    DTYPES,
    Record,
    SharedRecords,
    decode_values,
    from_byte_rows,
    grid_integers,
    num_symbols,
    scatter,
)
from lightning_modules.compression.container.value_codecs import decode_bitmask_int8, decode_plain, decode_positions
from lightning_modules.config.errors import UserError

Contents = tuple[Header, dict[str, Tensor], CompressedState]
_ALWAYS_ALLOWED_BYTES = 2**28  # tensors of a small file
_MAX_RATIO = 10_000  # bytes of tensors for each byte of data


def read(path: Path) -> Contents:
    """The header, the tensors by name, and the compressed state, on the CPU.

    Raises UserError for a file that is missing, truncated, changed in any byte, newer, or of another kind.
    """
    header, data = unwrap(path)
    return decode_file(path, header, data)


def read_header(path: Path) -> Header:
    """The header alone. Raises UserError like `read`."""
    header, _ = unwrap(path)
    return _header_part(path, header, "header", dict)


def decode_file(path: Path, header: Header, data: Buffer) -> Contents:
    """Like `read`, for an unwrapped file; `path` is for messages."""
    own, steps = _header_part(path, header, "header", dict), _header_part(path, header, "steps", list)
    records, pools = _header_part(path, header, "tensors", list), _header_part(path, header, "pools", dict)
    try:
        tensors, state = decode_tensors(records, pools, data)
    except MemoryError as error:
        raise UserError(f"the compressed model {path} does not fit into memory: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} has an encoding that this version does not support: {error}") from error
    except (ValueError, IndexError, TypeError, RuntimeError, OverflowError) as error:
        raise damaged_file(path, error) from error
    state.steps = steps
    return own, tensors, state


def _header_part(path: Path, header: Header, key: str, kind: type) -> Any:
    part = header.get(key) if isinstance(header, dict) else None
    if not isinstance(part, kind):
        raise damaged_file(path, f"its header has no '{key}'")
    return part


class ByteReader:
    """Reads data from the front."""

    def __init__(self, data: Buffer) -> None:
        self._data, self._at = memoryview(data), 0

    def take(self, length: int) -> Buffer:
        """The next `length` bytes. Raises ValueError if there are fewer."""
        if not 0 <= length <= self.left:
            raise ValueError(f"expected {length} bytes, but only {self.left} are left")
        self._at += length
        return self._data[self._at - length : self._at]

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def decode_tensors(
    records: list[Record], pools: SharedRecords, data: Buffer
) -> tuple[dict[str, Tensor], CompressedState]:
    """All tensors, and the compressed state without its architecture steps.

    Raises ValueError, KeyError, IndexError or TypeError if records and data do not match, and MemoryError if the
    tensors do not fit into free memory.
    """
    _check_sizes(records, pools, len(data))
    blob = ByteReader(data)
    pool = {
        name: ByteReader(decode_plain(streams, blob.take, n, DTYPES[name].itemsize).tobytes())
        for name, (n, streams) in pools.items()
    }
    tensors, state = {}, CompressedState()
    for record in records:
        tensors[record["name"]] = _RecordDecoder(record, blob, pool).decode(state)
    if blob.left or any(rest.left for rest in pool.values()):
        raise ValueError("there is data after the last tensor")
    return tensors, state


def _check_sizes(records: list[Record], pools: SharedRecords, data: int) -> None:
    sizes = [n for n, _ in pools.values()]
    total = sum(n * DTYPES[name].itemsize for name, (n, _) in pools.items())
    for record in records:
        quantized = record.get("few", {})
        sizes += [*record["shape"], *quantized.get("centroids", []), quantized.get("groups", 0)]
        # A mask, indices, and positions of eight bytes may come on top.
        total += math.prod(record["shape"]) * (DTYPES[record["dtype"]].itemsize + 10)
    if any(size < 0 for size in sizes):
        raise ValueError("negative size")
    if total > _ALWAYS_ALLOWED_BYTES + _MAX_RATIO * data:
        raise ValueError(f"{data} bytes of data cannot hold {total} bytes of tensors")
    if total > (free := psutil.virtual_memory().available):
        raise MemoryError(f"its tensors need up to {total:,} bytes, but only {free:,} bytes are free")


@dataclass
class _RecordDecoder:
    """Decodes the record of one tensor."""

    record: Record
    blob: ByteReader
    pool: dict[str, ByteReader]

    def decode(self, state: CompressedState) -> Tensor:
        """The tensor; its mask, codebook or grid is added to the state."""
        name, shape = self.record["name"], tuple(self.record["shape"])
        n: int = math.prod(shape)
        quantized = self._sides(shape, n)
        where, values = self._read(n, quantized)
        if isinstance(quantized, Codebook):
            quantized.indices = torch.from_numpy(scatter(values, where, n)).view(shape)
            state.codebooks[name] = quantized
        elif isinstance(quantized, QuantGrid):
            quantized.q = torch.from_numpy(grid_integers(values, where, quantized, n)).view(shape)
            state.grids[name] = quantized
        if where is not None and self.record["masked"]:
            state.masks[name] = torch.from_numpy(scatter(np.ones(len(where), bool), where, n)).view(shape)
        return decode_values(self.record["dtype"], quantized, where, values, n).view(shape)

    def _read(self, n: int, quantized: QuantizedWeight | None) -> tuple[np.ndarray | None, np.ndarray]:
        """Positions of the kept entries (None: all), and their values as symbols [count] or bytes [count, size]."""
        record = self.record
        where, count = None, n
        if "kept" in record:
            how, count, gaps, length = record["kept"]
            if not 0 <= count <= n:
                raise ValueError(f"{count} of {n} entries are kept")
            if record["codec"] == "bitmask+int8+zstd":
                where, q = decode_bitmask_int8(self.blob.take(length), n, count)
                return where, q.view(np.uint8) ^ 128
            where = decode_positions(how, count, gaps, self.blob.take(length), n)
        size = DTYPES[record["dtype"]].itemsize
        if record["codec"] == "pool":
            taken = self.pool[record["dtype"]].take(count * size)
            return where, np.frombuffer(taken, np.uint8).reshape(count, size)
        if record["codec"] == "plain":
            return where, decode_plain(record["values"], self.blob.take, count, size)
        if quantized is None or record["codec"] not in ("codebook", "grid"):
            raise KeyError(record["codec"])
        [[coder, length]] = record["values"]
        return where, decode_symbols(coder, self.blob.take(length), count, num_symbols(quantized))

    def _sides(self, shape: tuple[int, ...], n: int) -> QuantizedWeight | None:
        quantized, codec = self.record.get("few"), self.record["codec"]
        empty = torch.empty(0)
        if quantized is None:
            return None
        if codec == "codebook":
            centroids = self._pooled(quantized["dtype"], quantized["centroids"])
            if not (centroids.ndim == 1 or (centroids.ndim == 2 and len(centroids) == shape[0])):
                raise ValueError(f"centroids {quantized['centroids']} for a tensor {shape}")
            return Codebook(empty, centroids)
        groups, bits = quantized["groups"], quantized["bits"]
        if not 1 <= bits <= 8 or (n % groups if groups else n):
            raise ValueError(f"{groups} groups of {bits} bits for a tensor {shape}")
        scale = self._pooled("float32", [groups, 1])
        return QuantGrid(empty, scale, bits, self._pooled("int8", [groups, 1]) if quantized["zero_point"] else None)

    def _pooled(self, dtype: str, shape: list[int]) -> Tensor:
        size = DTYPES[dtype].itemsize
        rows = np.frombuffer(self.pool[dtype].take(math.prod(shape) * size), np.uint8).reshape(-1, size)
        return from_byte_rows(rows, dtype).view(shape)
