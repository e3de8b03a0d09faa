"""The entries of a tensor from the values of those that are kept."""

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, QuantGrid
from lightning_modules.compression.container.tensor_encoding import DTYPES, from_byte_rows, to_byte_rows


def scatter(values: np.ndarray, where: np.ndarray | None, n: int, fill: np.ndarray | int = 0) -> np.ndarray:
    """Values [count] at their positions, `fill` elsewhere; [n]."""
    if where is None:
        return values if values.flags.writeable else values.copy()
    full = np.zeros(n, values.dtype) if isinstance(fill, int) and fill == 0 else np.array(fill, values.dtype)
    full[where] = values
    return full


def decode_values(
    dtype: str, quantized: Codebook | QuantGrid | None, where: np.ndarray | None, values: np.ndarray, n: int
) -> Tensor:
    """The tensor [n], of symbols [count] or of bytes [count, bytes of an entry]; an entry that is not kept is +0."""
    if quantized is not None:
        values = to_byte_rows(_dequantize(quantized, where, values, n).to(DTYPES[dtype]))
    size = DTYPES[dtype].itemsize
    full = scatter(np.ascontiguousarray(values).view(f"u{size}")[:, 0], where, n)
    return from_byte_rows(full.view(np.uint8).reshape(-1, size), dtype)


def grid_integers(symbols: np.ndarray, where: np.ndarray | None, grid: QuantGrid, n: int) -> np.ndarray:
    """Symbols [count] -> int8 [n]; an entry that is not kept is where the grid is zero."""
    q = _signed(symbols, grid)
    if where is None or grid.zero_point is None:
        return scatter(q, where, n)
    return scatter(q, where, n, np.repeat(grid.zero_point.numpy()[:, 0], n // len(grid.scale)))


def _signed(symbols: np.ndarray, grid: QuantGrid) -> np.ndarray:
    if grid.bits == 8:
        return (symbols ^ 128).view(np.int8)
    return symbols.view(np.int8) - np.int8(2 ** (grid.bits - 1))


def _dequantize(quantized: Codebook | QuantGrid, where: np.ndarray | None, symbols: np.ndarray, n: int) -> Tensor:
    """What `few.values` gives, of the kept entries alone."""
    if isinstance(quantized, Codebook):
        index = torch.from_numpy(symbols.astype(np.int64))
        if quantized.centroids.ndim == 1:
            return quantized.centroids[index]
        return quantized.centroids[
            torch.from_numpy(_repeat_for_kept(np.arange(len(quantized.centroids)), where, n)), index
        ]
    values = _signed(symbols, quantized).astype(np.float32)
    if quantized.zero_point is not None:
        values -= _repeat_for_kept(quantized.zero_point.numpy()[:, 0].astype(np.float32), where, n)
    values *= _repeat_for_kept(quantized.scale.numpy()[:, 0], where, n)
    return torch.from_numpy(values)


def _repeat_for_kept(rows: np.ndarray, where: np.ndarray | None, n: int) -> np.ndarray:
    """What belongs to the kept entries, of what belongs to the equal rows of consecutive entries."""
    size = n // max(1, len(rows))
    if where is None:
        return np.repeat(rows, size)
    return np.repeat(rows, np.diff(np.searchsorted(where, np.arange(len(rows) + 1) * size)))
