"""Pieces -> records (plain values that say how each is coded) and one blob of data."""

from typing import Any

import numpy as np

from lightning_modules.compression.container import bitmask_int8, plain, positions, symbols
from lightning_modules.compression.container.piece import Piece, alphabet_of, dtype_name, rows_of
from lightning_modules.compression.form import Codebook, Grid

Record = dict[str, Any]


class Pools:
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


def encode_piece(piece: Piece, pools: Pools) -> tuple[Record, bytes]:
    """The record of a piece, and its data but for what went into the pools."""
    record: Record = {"name": piece.name, "dtype": piece.dtype, "shape": list(piece.shape)}
    for side in piece.sides:
        pools.add(dtype_name(side), rows_of(side))
    if piece.pooled:
        pools.add(piece.dtype, piece.values)
        apart = _apart(piece, "pool", [], b"")
    elif piece.few is None:
        apart = _apart(piece, "plain", *plain.encode(piece.values))
    else:
        coder, data = symbols.encode(piece.values, alphabet_of(piece.few))
        apart = _apart(piece, "codebook" if isinstance(piece.few, Codebook) else "grid", [[coder, len(data)]], data)
        record["few"] = _few(piece.few)
    extra, data = _shorter(piece, *apart)
    return record | extra, data


def _apart(piece: Piece, codec: str, streams: plain.Streams, data: bytes) -> tuple[Record, bytes]:
    """Kept positions first, then the values."""
    extra: Record = {"codec": codec, "values": streams}
    if piece.kept is not None:
        kept, where = positions.encode(piece.kept)
        extra |= {"kept": [*kept, len(where)], "masked": piece.masked}
        data = where + data
    return extra, data


def _shorter(piece: Piece, extra: Record, data: bytes) -> tuple[Record, bytes]:
    """The same or, where it is not much longer, positions and int8 values in one frame: that is read in no time."""
    if piece.kept is None or not isinstance(piece.few, Grid) or piece.few.bits != 8:
        return extra, data
    together = bitmask_int8.encode(piece.kept, (piece.values ^ 128).view(np.int8))
    name = "bitmask+int8+zstd"
    if symbols.smallest([(name, together), ("apart", data)], piece.kept.size)[0] != name:
        return extra, data
    return {"codec": name, "kept": [name, len(piece.values), 0, len(together)], "masked": piece.masked}, together


def _few(few: Codebook | Grid) -> Record:
    if isinstance(few, Codebook):
        return {"centroids": list(few.centroids.shape), "dtype": dtype_name(few.centroids)}
    return {"bits": few.bits, "groups": len(few.scale), "zero_point": few.zero_point is not None}
