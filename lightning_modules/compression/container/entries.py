"""The entries of a tensor from the values of those that are kept."""

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.container.piece import DTYPES, rows_of, tensor_of
from lightning_modules.compression.form import Codebook, Grid


def spread(values: np.ndarray, where: np.ndarray | None, n: int, fill: np.ndarray | int = 0) -> np.ndarray:
    """Values [count] at their positions, `fill` elsewhere; [n]."""
    if where is None:
        return values if values.flags.writeable else values.copy()
    full = np.zeros(n, values.dtype) if isinstance(fill, int) and fill == 0 else np.array(fill, values.dtype)
    full[where] = values
    return full


def tensor(dtype: str, few: Codebook | Grid | None, where: np.ndarray | None, values: np.ndarray, n: int) -> Tensor:
    """The tensor [n], of symbols [count] or of bytes [count, bytes of an entry]; an entry that is not kept is +0."""
    if few is not None:
        values = rows_of(_few_values(few, where, values, n).to(DTYPES[dtype]))
    size = DTYPES[dtype].itemsize
    full = spread(np.ascontiguousarray(values).view(f"u{size}")[:, 0], where, n)
    return tensor_of(full.view(np.uint8).reshape(-1, size), dtype)


def on_grid(symbols: np.ndarray, where: np.ndarray | None, grid: Grid, n: int) -> np.ndarray:
    """Symbols [count] -> int8 [n]; an entry that is not kept is where the grid is zero."""
    q = _signed(symbols, grid)
    if where is None or grid.zero_point is None:
        return spread(q, where, n)
    return spread(q, where, n, np.repeat(grid.zero_point.numpy()[:, 0], n // len(grid.scale)))


def _signed(symbols: np.ndarray, grid: Grid) -> np.ndarray:
    if grid.bits == 8:
        return (symbols ^ 128).view(np.int8)
    return symbols.view(np.int8) - np.int8(2 ** (grid.bits - 1))


def _few_values(few: Codebook | Grid, where: np.ndarray | None, symbols: np.ndarray, n: int) -> Tensor:
    """What `few.values` gives, of the kept entries alone."""
    if isinstance(few, Codebook):
        index = torch.from_numpy(symbols.astype(np.int64))
        if few.centroids.ndim == 1:
            return few.centroids[index]
        return few.centroids[torch.from_numpy(_each(np.arange(len(few.centroids)), where, n)), index]
    values = _signed(symbols, few).astype(np.float32)
    if few.zero_point is not None:
        values -= _each(few.zero_point.numpy()[:, 0].astype(np.float32), where, n)
    values *= _each(few.scale.numpy()[:, 0], where, n)
    return torch.from_numpy(values)


def _each(rows: np.ndarray, where: np.ndarray | None, n: int) -> np.ndarray:
    """What belongs to the kept entries, of what belongs to the equal rows of consecutive entries."""
    size = n // max(1, len(rows))
    if where is None:
        return np.repeat(rows, size)
    return np.repeat(rows, np.diff(np.searchsorted(where, np.arange(len(rows) + 1) * size)))
