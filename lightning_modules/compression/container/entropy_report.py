"""The size of each tensor in a compressed file, beside its lower bound: the entropy (Shannon 1948).

Entropies are those of the symbols' own frequencies, taken as independent, with the correction of Miller (1955) for few
samples, and at most the packed bits. Names, shapes, header and frequency tables are not counted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_modules.compression.container.tensor_encoding import (
    DTYPES,
    Record,
    SharedRecords,
    TensorEncoding,
    dtype_name,
    num_symbols,
)
from lightning_modules.report.tables import markdown_table


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: its codec, its size when dense, stored, and at least, and its number of zeros."""

    name: str
    codec: str
    shape: tuple[int, ...]
    dtype: str
    dense_bytes: int
    stored_bytes: float  # with its part of the shared streams
    bound_bytes: float
    zeros: int


@dataclass(frozen=True)
class WriteReport:
    """A compressed file on disk.

    Attributes:
        size_bytes: of the file with its header.
        bound_bytes: the sum of the entropies of its tensors.
    """

    path: Path
    size_bytes: int
    bound_bytes: float
    tensors: tuple[StoredTensor, ...]

    @property
    def dense_bytes(self) -> int:
        return sum(tensor.dense_bytes for tensor in self.tensors)

    def table(self) -> str:
        """A Markdown table with a row for each tensor, one for the header, and one for the file."""
        rows: list[tuple[str | float, ...]] = [
            (t.name, t.codec, "x".join(map(str, t.shape)), t.zeros, t.dense_bytes, t.stored_bytes, t.bound_bytes)
            for t in self.tensors
        ]
        header = self.size_bytes - sum(tensor.stored_bytes for tensor in self.tensors)
        zeros = sum(tensor.zeros for tensor in self.tensors)
        rows.append(("header", "", "", "", "", header, ""))
        rows.append(("file", "", "", zeros, self.dense_bytes, self.size_bytes, self.bound_bytes))
        columns = ["tensor", "codec", "shape", "zeros", "dense", "stored", "bound"]
        return markdown_table(columns, ([_format_cell(value) for value in row] for row in rows), left=(0, 1, 2))


def _format_cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"


def entropy_report(
    pieces: list[TensorEncoding],
    coded: list[tuple[Record, int]],
    shared: dict[str, list[np.ndarray]],
    records: SharedRecords,
) -> tuple[StoredTensor, ...]:
    """The size of each tensor: its own data, and its part of the shared streams in proportion to its entries."""
    stored_each, bound_each = {}, {}
    for dtype, (n, streams) in records.items():
        stored_each[dtype] = sum(length for _, length in streams) / max(1, n)
        bound_each[dtype] = _plain_entropy_bytes(np.concatenate(shared[dtype])) / max(1, n)
    table = []
    for piece, (record, own) in zip(pieces, coded, strict=True):
        is_shared = [(dtype_name(side), side.numel()) for side in piece.aux_tensors]
        is_shared += [(piece.dtype, len(piece.values))] if piece.is_shared else []
        stored = own + sum(stored_each[dtype] * n for dtype, n in is_shared)
        bound = _entropy_bound(piece, sum(bound_each[dtype] * n for dtype, n in is_shared))
        dense = piece.entries * DTYPES[piece.dtype].itemsize
        codec = _describe_codec(record)
        table.append(StoredTensor(piece.name, codec, piece.shape, piece.dtype, dense, stored, bound, piece.zeros))
    return tuple(table)


def _describe_codec(record: Record) -> str:
    """For example ``grid of 4 bits: ans; gaps geometric``."""
    quantized, name = record.get("few", {}), record["codec"]
    if "centroids" in quantized:
        name += f" of {quantized['centroids'][-1]}"
    if "bits" in quantized:
        name += f" of {quantized['bits']} bits"
    coders = "+".join(dict.fromkeys(coder for coder, _ in record["values"]))
    return "; ".join([f"{name}: {coders}" if coders else name, *record.get("kept", [])[:1]])


def entropy_bytes(counts: np.ndarray, alphabet: int) -> float:
    """The entropy, in bytes, of a sequence in which the symbols occur `counts` times."""
    counts = counts[counts > 0].astype(np.float64)
    n = counts.sum()
    if len(counts) < 2:
        return 0.0
    nats = float(n * np.log(n) - (counts * np.log(counts)).sum()) + (len(counts) - 1) / 2
    return float(min(nats / np.log(2), n * np.log2(alphabet))) / 8


def _plain_entropy_bytes(rows: np.ndarray) -> float:
    """The entropy of plain values [n, bytes of an entry]: the bytes at each position are one sequence."""
    return sum(entropy_bytes(np.bincount(place, minlength=256), 256) for place in rows.T)


def _entropy_bound(piece: TensorEncoding, plain: float) -> float:
    """The entropy of one tensor: mask, symbols, and `plain` for its values in the shared streams."""
    total = plain
    if piece.kept is not None:
        kept = np.count_nonzero(piece.kept)
        total += entropy_bytes(np.array([kept, piece.kept.size - kept]), 2)
    if piece.quantized is not None:
        return total + entropy_bytes(np.bincount(piece.values, minlength=1), num_symbols(piece.quantized))
    return total if piece.is_shared else total + _plain_entropy_bytes(piece.values)
