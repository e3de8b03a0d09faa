"""Says of each tensor what it takes in the file, and how small it could get: the sum of the entropies (Shannon 1948).

Entropies are of the symbols' own frequencies, taken as independent, with the correction of Miller (1955) for
few samples, and never above the packed bits. Neither names, shapes, header, nor tables of frequencies are counted.
"""

from typing import Any

import numpy as np

from lightning_modules.compression.container.encode import Record, SharedStreams
from lightning_modules.compression.container.tensor_encoding import DTYPES, TensorEncoding, dtype_name, num_symbols
from lightning_modules.compression.container.written import StoredTensor


def entropy_report(
    pieces: list[TensorEncoding], coded: list[tuple[Record, int]], pools: SharedStreams, records: dict[str, list[Any]]
) -> tuple[StoredTensor, ...]:
    """Bytes of each tensor: its own data, and by its entries a share of the pools."""
    stored_each, bound_each = {}, {}
    for dtype, (n, streams) in records.items():
        stored_each[dtype] = sum(length for _, length in streams) / max(1, n)
        bound_each[dtype] = _plain_entropy_bytes(np.concatenate(pools.rows[dtype])) / max(1, n)
    table = []
    for piece, (record, own) in zip(pieces, coded, strict=True):
        is_shared = [(dtype_name(side), side.numel()) for side in piece.aux_tensors]
        is_shared += [(piece.dtype, len(piece.values))] if piece.is_shared else []
        stored = own + sum(stored_each[dtype] * n for dtype, n in is_shared)
        bound = _entropy_bound(piece, sum(bound_each[dtype] * n for dtype, n in is_shared))
        dense = piece.entries * DTYPES[piece.dtype].itemsize
        table.append(
            StoredTensor(
                piece.name, _describe_codec(record), piece.shape, piece.dtype, dense, stored, bound, piece.zeros
            )
        )
    return tuple(table)


def _describe_codec(record: Record) -> str:
    """``grid 4 bits: ans; gaps geometric``."""
    quantized, name = record.get("few", {}), record["codec"]
    if "centroids" in quantized:
        name += f" of {quantized['centroids'][-1]}"
    if "bits" in quantized and name == "grid":
        name += f" of {quantized['bits']} bits"
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


def _plain_entropy_bytes(rows: np.ndarray) -> float:
    """Of plain values [n, bytes of an entry]: each place's bytes are a sequence of their own."""
    return sum(entropy_bytes(np.bincount(place, minlength=256), 256) for place in rows.T)


def _entropy_bound(piece: TensorEncoding, plain: float) -> float:
    """Of one tensor: mask, symbols and centroids or scales; `plain`: of its plain values in the pools."""
    total = plain
    if piece.kept is not None:
        kept = np.count_nonzero(piece.kept)
        total += entropy_bytes(np.array([kept, piece.kept.size - kept]), 2)
    if piece.quantized is not None:
        return total + entropy_bytes(np.bincount(piece.values, minlength=1), num_symbols(piece.quantized))
    return total if piece.is_shared else total + _plain_entropy_bytes(piece.values)
