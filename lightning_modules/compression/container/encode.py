"""Pieces -> records (plain values that say how each is coded) and one blob of data."""

from typing import Any

import numpy as np

from lightning_modules.compression.compressed_state import Codebook, QuantGrid
from lightning_modules.compression.container import bitmask_int8, plain, positions, symbols
from lightning_modules.compression.container.tensor_encoding import (
    TensorEncoding,
    dtype_name,
    num_symbols,
    to_byte_rows,
)

Record = dict[str, Any]


class SharedStreams:
    """Plain values of many small tensors, by type: one table of frequencies serves them all."""

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, dtype: str, rows: np.ndarray) -> None:
        self.rows.setdefault(dtype, []).append(rows)

    def encode(self) -> tuple[dict[str, list[Any]], bytes]:
        """``{dtype: [entries, streams]}`` and the data."""
        records, blob = {}, b""
        for dtype, parts in self.rows.items():
            rows = np.concatenate(parts)
            streams, data = plain.encode(rows)
            records[dtype] = [len(rows), streams]
            blob += data
        return records, blob


def encode_tensor(piece: TensorEncoding, pools: SharedStreams) -> tuple[Record, bytes]:
    """The record of a piece, and its data but for what went into the pools."""
    record: Record = {"name": piece.name, "dtype": piece.dtype, "shape": list(piece.shape)}
    for side in piece.aux_tensors:
        pools.add(dtype_name(side), to_byte_rows(side))
    if piece.is_shared:
        pools.add(piece.dtype, piece.values)
        apart = _separate_streams(piece, "pool", [], b"")
    elif piece.quantized is None:
        apart = _separate_streams(piece, "plain", *plain.encode(piece.values))
    else:
        coder, data = symbols.encode(piece.values, num_symbols(piece.quantized))
        apart = _separate_streams(
            piece, "codebook" if isinstance(piece.quantized, Codebook) else "grid", [[coder, len(data)]], data
        )
        record["few"] = _quantized_record(piece.quantized)
    extra, data = _pick_shorter(piece, *apart)
    return record | extra, data


def _separate_streams(piece: TensorEncoding, codec: str, streams: plain.Streams, data: bytes) -> tuple[Record, bytes]:
    """Kept positions first, then the values."""
    extra: Record = {"codec": codec, "values": streams}
    if piece.kept is not None:
        kept, where = positions.encode(piece.kept)
        extra |= {"kept": [*kept, len(where)], "masked": piece.masked}
        data = where + data
    return extra, data


def _pick_shorter(piece: TensorEncoding, extra: Record, data: bytes) -> tuple[Record, bytes]:
    """The same or, where it is not much longer, positions and int8 values in one frame: that is read in no time."""
    if piece.kept is None or not isinstance(piece.quantized, QuantGrid) or piece.quantized.bits != 8:
        return extra, data
    together = bitmask_int8.encode(piece.kept, (piece.values ^ 128).view(np.int8))
    name = "bitmask+int8+zstd"
    if symbols.pick_smallest([(name, together), ("apart", data)], piece.kept.size)[0] != name:
        return extra, data
    return {"codec": name, "kept": [name, len(piece.values), 0, len(together)], "masked": piece.masked}, together


def _quantized_record(quantized: Codebook | QuantGrid) -> Record:
    if isinstance(quantized, Codebook):
        return {"centroids": list(quantized.centroids.shape), "dtype": dtype_name(quantized.centroids)}
    return {"bits": quantized.bits, "groups": len(quantized.scale), "zero_point": quantized.zero_point is not None}
