"""Records and their blob -> tensors and form. Nothing is allocated before its size was held against the file's."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from lightning_modules.compression.container import bitmask_int8, entries, plain, positions, symbols
from lightning_modules.compression.container.frame import Buffer
from lightning_modules.compression.container.piece import DTYPES, alphabet_of, tensor_of
from lightning_modules.compression.form import Codebook, Form, Grid

_FREE_BYTES, _MOST_RATIO = 2**28, 10_000  # tensors of so many bytes for nothing, and so many for each byte of data


class Blob:
    """Data that is taken from the front."""

    def __init__(self, data: Buffer) -> None:
        self._data, self._at = memoryview(data), 0

    def take(self, length: int) -> Buffer:
        """The next `length` bytes. Raises ValueError where there are not so many."""
        if not 0 <= length <= len(self._data) - self._at:
            raise ValueError(f"{length} bytes are said to be where {len(self._data) - self._at} are left")
        self._at += length
        return self._data[self._at - length : self._at]

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def decode(records: list[dict[str, Any]], pools: dict[str, list[Any]], data: Buffer) -> tuple[dict[str, Tensor], Form]:
    """All tensors, and the form but for its steps.

    Raises ValueError, KeyError, IndexError or TypeError where records and data do not agree, and MemoryError where the
    tensors do not fit into free memory.
    """
    _check_sizes(records, pools, len(data))
    blob = Blob(data)
    pool = {
        name: Blob(plain.decode(streams, blob.take, n, DTYPES[name].itemsize).tobytes())
        for name, (n, streams) in pools.items()
    }
    tensors, form = {}, Form()
    for record in records:
        tensors[record["name"]] = _Entry(record, blob, pool).decode(form)
    if blob.left or any(rest.left for rest in pool.values()):
        raise ValueError("there is more data than tensors")
    return tensors, form


def _check_sizes(records: list[dict[str, Any]], pools: dict[str, list[Any]], data: int) -> None:
    sizes = [n for n, _ in pools.values()]
    total = sum(n * DTYPES[name].itemsize for name, (n, _) in pools.items())
    for record in records:
        few = record.get("few", {})
        sizes += [*record["shape"], *few.get("centroids", []), few.get("groups", 0)]
        # A mask, indices, and positions of eight bytes may stand beside the entries.
        total += math.prod(record["shape"]) * (DTYPES[record["dtype"]].itemsize + 10)
    if any(size < 0 for size in sizes):
        raise ValueError("a negative size")
    if total > _FREE_BYTES + _MOST_RATIO * data:
        raise ValueError(f"{data} bytes of data cannot be {total} bytes of tensors")
    if total > (free := psutil.virtual_memory().available):
        raise MemoryError(f"its tensors take up to {total:,} bytes, but {free:,} bytes are free")


@dataclass
class _Entry:
    """One record on its way to a tensor."""

    record: dict[str, Any]
    blob: Blob
    pool: dict[str, Blob]

    def decode(self, form: Form) -> Tensor:
        """The tensor; its mask, codebook or grid go into the form."""
        name, shape = self.record["name"], tuple(self.record["shape"])
        n: int = math.prod(shape)
        few = self._sides(shape, n)
        where, values = self._read(n, few)
        if isinstance(few, Codebook):
            few.indices = torch.from_numpy(entries.spread(values, where, n)).view(shape)
            form.codebooks[name] = few
        elif isinstance(few, Grid):
            few.q = torch.from_numpy(entries.on_grid(values, where, few, n)).view(shape)
            form.grids[name] = few
        if where is not None and self.record["masked"]:
            form.masks[name] = torch.from_numpy(entries.spread(np.ones(len(where), bool), where, n)).view(shape)
        return entries.tensor(self.record["dtype"], few, where, values, n).view(shape)

    def _read(self, n: int, few: Codebook | Grid | None) -> tuple[np.ndarray | None, np.ndarray]:
        """Positions of the kept entries (None: all), and their values: symbols [count] or bytes [count, size]."""
        record = self.record
        where, count = None, n
        if "kept" in record:
            how, count, gaps, length = record["kept"]
            if not 0 <= count <= n:
                raise ValueError(f"{count} of {n} entries are kept")
            if record["codec"] == "bitmask+int8+zstd":
                where, q = bitmask_int8.decode(self.blob.take(length), n, count)
                return where, q.view(np.uint8) ^ 128
            where = positions.decode(how, count, gaps, self.blob.take(length), n)
        size = DTYPES[record["dtype"]].itemsize
        if record["codec"] == "pool":
            taken = self.pool[record["dtype"]].take(count * size)
            return where, np.frombuffer(taken, np.uint8).reshape(count, size)
        if record["codec"] == "plain":
            return where, plain.decode(record["values"], self.blob.take, count, size)
        if few is None or record["codec"] not in ("codebook", "grid"):
            raise KeyError(record["codec"])
        [[coder, length]] = record["values"]
        return where, symbols.decode(coder, self.blob.take(length), count, alphabet_of(few))

    def _sides(self, shape: tuple[int, ...], n: int) -> Codebook | Grid | None:
        few, codec = self.record.get("few"), self.record["codec"]
        empty = torch.empty(0)
        if few is None:
            return None
        if codec == "codebook":
            centroids = self._pooled(few["dtype"], few["centroids"])
            if not (centroids.ndim == 1 or (centroids.ndim == 2 and len(centroids) == shape[0])):
                raise ValueError(f"centroids {few['centroids']} for a tensor {shape}")
            return Codebook(empty, centroids)
        groups, bits = few["groups"], few["bits"]
        if not 1 <= bits <= 8 or (n % groups if groups else n):
            raise ValueError(f"{groups} groups of {bits} bits for a tensor {shape}")
        scale = self._pooled("float32", [groups, 1])
        return Grid(empty, scale, bits, self._pooled("int8", [groups, 1]) if few["zero_point"] else None)

    def _pooled(self, dtype: str, shape: list[int]) -> Tensor:
        size = DTYPES[dtype].itemsize
        rows = np.frombuffer(self.pool[dtype].take(math.prod(shape) * size), np.uint8).reshape(-1, size)
        return tensor_of(rows, dtype).view(shape)
