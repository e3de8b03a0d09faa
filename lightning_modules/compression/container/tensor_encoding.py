"""A tensor as it is coded: which entries are kept, and their values as symbols of few kinds or as plain bytes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantGrid
from lightning_modules.config.errors import UserError

MAX_SHARED_VALUES = 1024  # plain values: up to so many share one stream with those of other tensors

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
        kept: bool [n], entries that are not are zero and have no value; None: all are.
        masked: `kept` is a mask of the form, not only where the zeros happen to be.
        few: what its values are made of.
        values: of the kept entries: uint8 symbols [count] where `few` is there, else bytes [count, bytes of an entry].
        zeros: entries that are 0, kept or not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kept: np.ndarray | None
    masked: bool
    quantized: Codebook | QuantGrid | None
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
        """Plain values that the symbols need: centroids, or scales and zero points."""
        if isinstance(self.quantized, Codebook):
            return [self.quantized.centroids]
        if isinstance(self.quantized, QuantGrid):
            return [self.quantized.scale, *([] if self.quantized.zero_point is None else [self.quantized.zero_point])]
        return []


def dtype_name(tensor: Tensor) -> str:
    """The key of `DTYPES`. Raises UserError for a type that a compressed model cannot hold."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES or tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(
            f"a compressed model holds no {tensor.layout} tensor of {name}; it can hold: {', '.join(DTYPES)}"
        )
    return name


def to_byte_rows(tensor: Tensor) -> np.ndarray:
    """Any tensor -> its bytes, uint8 [n, bytes of an entry]."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    rows: np.ndarray = flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())
    return rows


def to_bit_patterns(tensor: Tensor) -> np.ndarray:
    """Any tensor -> each entry's bits as a whole number, [n]."""
    rows = to_byte_rows(tensor)
    bits: np.ndarray = rows.view(f"u{rows.shape[1]}")[:, 0]
    return bits


def from_byte_rows(rows: np.ndarray, dtype: str) -> Tensor:
    """Bytes, uint8 [n, bytes of an entry] -> tensor [n]."""
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]).reshape(-1)).view(DTYPES[dtype])


def num_symbols(quantized: Codebook | QuantGrid) -> int:
    """How many symbols the entries can have."""
    return quantized.centroids.shape[-1] if isinstance(quantized, Codebook) else 2**quantized.bits


def plan_encodings(tensors: dict[str, Tensor], state: CompressedState) -> list[TensorEncoding]:
    """The tensors, each with its part of the form. Raises UserError where the form is of other tensors."""
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
    dtype, mask, quantized = (
        dtype_name(tensor),
        state.masks.get(name),
        state.codebooks.get(name) or state.grids.get(name),
    )
    kept = _mostly_zero_mask(tensor, quantized) if mask is None else to_bit_patterns(mask).view(bool)
    values = to_byte_rows(tensor) if quantized is None else _symbols(quantized)
    values = values if kept is None else values[kept]
    zeros = tensor.numel() - int(torch.count_nonzero(tensor.double()))
    return TensorEncoding(name, dtype, tuple(tensor.shape), kept, mask is not None, quantized, values, zeros)


def _mostly_zero_mask(tensor: Tensor, quantized: Codebook | QuantGrid | None) -> np.ndarray | None:
    """Where most entries are zero without a mask, the others; as positions and values they take what they took."""
    if (
        tensor.numel() <= MAX_SHARED_VALUES
        or isinstance(quantized, Codebook)
        or (quantized is not None and quantized.zero_point is not None)
    ):
        return None
    nonzero: np.ndarray = to_bit_patterns(tensor if quantized is None else quantized.q) != 0
    return nonzero if np.count_nonzero(nonzero) * 2 < len(nonzero) else None


def _symbols(quantized: Codebook | QuantGrid) -> np.ndarray:
    if isinstance(quantized, Codebook):
        return to_byte_rows(quantized.indices)[:, 0]
    return (to_byte_rows(quantized.q)[:, 0].view(np.int8).astype(np.int16) + 2 ** (quantized.bits - 1)).astype(np.uint8)
