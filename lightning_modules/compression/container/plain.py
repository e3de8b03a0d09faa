"""Plain values: each byte of an entry is a sequence of symbols of its own (exponents repeat, mantissas do not)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_modules.compression.container import symbols
from lightning_modules.compression.container.zstd_frame import Buffer, zstd_compress, zstd_decompress

Streams = list[list[Any]]  # [coder, bytes] of each stream
Take = Callable[[int], Buffer]  # the next so many bytes


def encode(rows: np.ndarray) -> tuple[Streams, bytes]:
    """Bytes [n, size] -> the streams of its planes, or one of all the bytes where whole entries repeat, and the data."""
    coded = [symbols.encode(np.ascontiguousarray(plane), 256) for plane in rows.T]
    streams, data = [[coder, len(data)] for coder, data in coded], b"".join(data for _, data in coded)
    whole = zstd_compress(rows.tobytes())
    return (streams, data) if len(data) <= len(whole) else ([["whole zstd", len(whole)]], whole)


def decode(streams: Streams, take: Take, n: int, size: int) -> np.ndarray:
    """Back to uint8 [n, size]. Raises ValueError where the data does not hold that, KeyError for a coder not known."""
    if len(streams) == 1 and streams[0][0] == "whole zstd":
        return np.frombuffer(zstd_decompress(take(streams[0][1]), n * size), np.uint8).reshape(n, size)
    if len(streams) != size:
        raise ValueError(f"{len(streams)} streams for entries of {size} bytes")
    rows = np.empty((n, size), np.uint8)
    for place, (coder, length) in enumerate(streams):
        rows[:, place] = symbols.decode(coder, take(length), n, 256)
    return rows
