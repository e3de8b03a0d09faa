"""Says of each tensor what it takes in the file, and how small it could get: the sum of the entropies (Shannon 1948).

Entropies are of the symbols' own frequencies, taken as independent, with the correction of Miller (1955) for
few samples, and never above the packed bits. Neither names, shapes, header, nor tables of frequencies are counted.
"""

from typing import Any

import numpy as np

from lightning_modules.compression.container.encode import Pools, Record
from lightning_modules.compression.container.piece import DTYPES, Piece, alphabet_of, dtype_name
from lightning_modules.compression.container.written import StoredTensor


def account(
    pieces: list[Piece], coded: list[tuple[Record, int]], pools: Pools, records: dict[str, list[Any]]
) -> tuple[StoredTensor, ...]:
    """Bytes of each tensor: its own data, and by its entries a share of the pools."""
    stored_each, bound_each = {}, {}
    for dtype, (n, streams) in records.items():
        stored_each[dtype] = sum(length for _, length in streams) / max(1, n)
        bound_each[dtype] = _plain_bytes(np.concatenate(pools.rows[dtype])) / max(1, n)
    table = []
    for piece, (record, own) in zip(pieces, coded, strict=True):
        pooled = [(dtype_name(side), side.numel()) for side in piece.sides]
        pooled += [(piece.dtype, len(piece.values))] if piece.pooled else []
        stored = own + sum(stored_each[dtype] * n for dtype, n in pooled)
        bound = _bound_bytes(piece, sum(bound_each[dtype] * n for dtype, n in pooled))
        dense = piece.entries * DTYPES[piece.dtype].itemsize
        table.append(
            StoredTensor(piece.name, _codec(record), piece.shape, piece.dtype, dense, stored, bound, piece.zeros)
        )
    return tuple(table)


def _codec(record: Record) -> str:
    """``grid 4 bits: ans; gaps geometric``."""
    few, name = record.get("few", {}), record["codec"]
    if "centroids" in few:
        name += f" of {few['centroids'][-1]}"
    if "bits" in few and name == "grid":
        name += f" of {few['bits']} bits"
    coders = "+".join(dict.fromkeys(coder for coder, _ in record.get("values", [])))
    kept = record["kept"][0] if "kept" in record and record["kept"][0] != name else ""
    return "; ".join(part for part in (f"{name}: {coders}" if coders else name, kept) if part)


def entropy_bytes(counts: np.ndarray, alphabet: int) -> float:
    """Of a sequence in which the symbols occur so often."""
    counts = counts[counts > 0].astype(np.float64)
    n = counts.sum()
    if len(counts) < 2:
        return 0.0
    nats = float(n * np.log(n) - (counts * np.log(counts)).sum()) + (len(counts) - 1) / 2
    return float(min(nats / np.log(2), n * np.log2(alphabet))) / 8


def _plain_bytes(rows: np.ndarray) -> float:
    """Of plain values [n, bytes of an entry]: each place's bytes are a sequence of their own."""
    return sum(entropy_bytes(np.bincount(place, minlength=256), 256) for place in rows.T)


def _bound_bytes(piece: Piece, plain: float) -> float:
    """Of one tensor: mask, symbols and centroids or scales; `plain`: of its plain values in the pools."""
    total = plain
    if piece.kept is not None:
        kept = np.count_nonzero(piece.kept)
        total += entropy_bytes(np.array([kept, piece.kept.size - kept]), 2)
    if piece.few is not None:
        return total + entropy_bytes(np.bincount(piece.values, minlength=1), alphabet_of(piece.few))
    return total if piece.pooled else total + _plain_bytes(piece.values)
