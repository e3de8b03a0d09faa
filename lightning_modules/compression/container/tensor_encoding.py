"""How a tensor is stored: which entries are kept, and their values as symbols or plain bytes; and back to the tensor."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantGrid, QuantizedWeight
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict

SharedRecords = dict[str, list[Any]]  # JSON: {dtype: [entries, streams]}
Record = PlainDict  # JSON: how a tensor is encoded
MAX_SHARED_VALUES = 1024  # tensors with at most this many plain values share streams

_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}


@dataclass
class TensorEncoding:
    """One tensor of the network.

    Attributes:
        dtype: a key of `DTYPES`.
        kept: bool [n]; all other entries are zero and not stored. None: all are kept.
        masked: whether `kept` is a mask of the compressed state, instead of the nonzero entries.
        quantized: the codebook or grid of its values, if any.
        values: of the kept entries: uint8 symbols [count] if quantized, else bytes [count, bytes of an entry].
        zeros: number of entries that are 0, kept or not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kept: np.ndarray | None
    masked: bool
    quantized: QuantizedWeight | None
    values: np.ndarray
    zeros: int

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def is_shared(self) -> bool:
        return self.quantized is None and len(self.values) <= MAX_SHARED_VALUES

    @property
    def aux_tensors(self) -> list[Tensor]:
        """The tensors needed to decode the symbols: centroids, or scales and zero points."""
        if isinstance(self.quantized, Codebook):
            return [self.quantized.centroids]
        if isinstance(self.quantized, QuantGrid):
            return [self.quantized.scale, *([] if self.quantized.zero_point is None else [self.quantized.zero_point])]
        return []


def dtype_name(tensor: Tensor) -> str:
    """The key of `DTYPES`. Raises UserError for an unsupported type."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES or tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(
            f"a compressed model cannot store a {tensor.layout} tensor of {name}; supported types: {', '.join(DTYPES)}"
        )
    return name


def to_byte_rows(tensor: Tensor) -> np.ndarray:
    """Tensor -> its bytes, uint8 [n, bytes of an entry]."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    return flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())


def to_bit_patterns(tensor: Tensor) -> np.ndarray:
    """Tensor -> the bits of each entry as an unsigned integer, [n]."""
    rows = to_byte_rows(tensor)
    return rows.view(f"u{rows.shape[1]}")[:, 0]


def from_byte_rows(rows: np.ndarray, dtype: str) -> Tensor:
    """Bytes, uint8 [n, bytes of an entry] -> tensor [n]."""
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]).reshape(-1)).view(DTYPES[dtype])


def num_symbols(quantized: QuantizedWeight) -> int:
    """The size of the symbols' alphabet."""
    return quantized.centroids.shape[-1] if isinstance(quantized, Codebook) else 2**quantized.bits


def plan_encodings(tensors: dict[str, Tensor], state: CompressedState) -> list[TensorEncoding]:
    """The encoding of each tensor. Raises UserError if the state does not match the tensors."""
    parts = [*state.masks.items()]
    parts += [(name, codebook.indices) for name, codebook in state.codebooks.items()]
    parts += [(name, grid.q) for name, grid in state.grids.items()]
    for name, part in parts:
        if name not in tensors or tensors[name].shape != part.shape:
            found = list(tensors[name].shape) if name in tensors else "not there"
            raise UserError(
                f"'{name}' cannot be compressed: it is {found}, and its mask or codes are {list(part.shape)}"
            )
    return [_plan_encoding(name, tensor, state) for name, tensor in tensors.items()]


def _plan_encoding(name: str, tensor: Tensor, state: CompressedState) -> TensorEncoding:
    dtype, mask = dtype_name(tensor), state.masks.get(name)
    quantized = state.codebooks.get(name) or state.grids.get(name)
    kept = _mostly_zero_mask(tensor, quantized) if mask is None else to_bit_patterns(mask).view(bool)
    values = to_byte_rows(tensor) if quantized is None else _symbols(quantized)
    values = values if kept is None else values[kept]
    zeros = tensor.numel() - int(torch.count_nonzero(tensor.double()))
    return TensorEncoding(name, dtype, tuple(tensor.shape), kept, mask is not None, quantized, values, zeros)


def _mostly_zero_mask(tensor: Tensor, quantized: QuantizedWeight | None) -> np.ndarray | None:
    """The nonzero entries of a large tensor without a mask if most of its entries are zero, else None."""
    if (
        tensor.numel() <= MAX_SHARED_VALUES
        or isinstance(quantized, Codebook)
        or (quantized is not None and quantized.zero_point is not None)
    ):
        return None
    nonzero: np.ndarray = to_bit_patterns(tensor if quantized is None else quantized.q) != 0
    return nonzero if np.count_nonzero(nonzero) * 2 < len(nonzero) else None


def _symbols(quantized: QuantizedWeight) -> np.ndarray:
    if isinstance(quantized, Codebook):
        return to_byte_rows(quantized.indices)[:, 0]
    return (to_byte_rows(quantized.q)[:, 0].view(np.int8).astype(np.int16) + 2 ** (quantized.bits - 1)).astype(np.uint8)


# --- from the values of the kept entries back to the tensor --------------------------------------------------------


def scatter(values: np.ndarray, where: np.ndarray | None, n: int, fill: np.ndarray | int = 0) -> np.ndarray:
    """Values [count] at their positions, and `fill` elsewhere; [n]."""
    if where is None:
        return values if values.flags.writeable else values.copy()
    full = np.zeros(n, values.dtype) if isinstance(fill, int) and fill == 0 else np.array(fill, values.dtype)
    full[where] = values
    return full


def decode_values(
    dtype: str, quantized: QuantizedWeight | None, where: np.ndarray | None, values: np.ndarray, n: int
) -> Tensor:
    """Symbols [count] or bytes [count, bytes of an entry] -> tensor [n]; entries that are not kept are +0."""
    if quantized is not None:
        values = to_byte_rows(_dequantize(quantized, where, values, n).to(DTYPES[dtype]))
    size = DTYPES[dtype].itemsize
    full = scatter(np.ascontiguousarray(values).view(f"u{size}")[:, 0], where, n)
    return from_byte_rows(full.view(np.uint8).reshape(-1, size), dtype)


def grid_integers(symbols: np.ndarray, where: np.ndarray | None, grid: QuantGrid, n: int) -> np.ndarray:
    """Symbols [count] -> int8 [n]; entries that are not kept get the integer that means zero."""
    q = _signed(symbols, grid)
    if where is None or grid.zero_point is None:
        return scatter(q, where, n)
    return scatter(q, where, n, np.repeat(grid.zero_point.numpy()[:, 0], n // len(grid.scale)))


def _signed(symbols: np.ndarray, grid: QuantGrid) -> np.ndarray:
    if grid.bits == 8:
        return (symbols ^ 128).view(np.int8)
    return symbols.view(np.int8) - np.int8(2 ** (grid.bits - 1))


def _dequantize(quantized: QuantizedWeight, where: np.ndarray | None, symbols: np.ndarray, n: int) -> Tensor:
    """The values of the codebook or grid, for the kept entries only."""
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
    """For each kept entry, the value of its row; rows are equal groups of consecutive entries."""
    size = n // max(1, len(rows))
    if where is None:
        return np.repeat(rows, size)
    return np.repeat(rows, np.diff(np.searchsorted(where, np.arange(len(rows) + 1) * size)))
