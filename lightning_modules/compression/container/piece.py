"""A tensor as it is coded: which entries are kept, and their values as symbols of few kinds or as plain bytes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.form import Codebook, Form, Grid
from lightning_modules.errors import UserError

POOLED = 1024  # plain values: up to so many share one stream with those of other tensors

_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}


@dataclass
class Piece:
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
    few: Codebook | Grid | None
    values: np.ndarray
    zeros: int

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def pooled(self) -> bool:
        return self.few is None and len(self.values) <= POOLED

    @property
    def sides(self) -> list[Tensor]:
        """Plain values that the symbols need: centroids, or scales and zero points."""
        if isinstance(self.few, Codebook):
            return [self.few.centroids]
        if isinstance(self.few, Grid):
            return [self.few.scale, *([] if self.few.zero_point is None else [self.few.zero_point])]
        return []


def dtype_name(tensor: Tensor) -> str:
    """The key of `DTYPES`. Raises UserError for a type that a compressed model cannot hold."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES or tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(
            f"a compressed model holds no {tensor.layout} tensor of {name}; it can hold: {', '.join(DTYPES)}"
        )
    return name


def rows_of(tensor: Tensor) -> np.ndarray:
    """Any tensor -> its bytes, uint8 [n, bytes of an entry]."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    rows: np.ndarray = flat.view(torch.uint8).numpy().reshape(-1, flat.element_size())
    return rows


def bits_of(tensor: Tensor) -> np.ndarray:
    """Any tensor -> each entry's bits as a whole number, [n]."""
    rows = rows_of(tensor)
    bits: np.ndarray = rows.view(f"u{rows.shape[1]}")[:, 0]
    return bits


def tensor_of(rows: np.ndarray, dtype: str) -> Tensor:
    """Bytes, uint8 [n, bytes of an entry] -> tensor [n]."""
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]).reshape(-1)).view(DTYPES[dtype])


def alphabet_of(few: Codebook | Grid) -> int:
    """How many symbols the entries can have."""
    return few.centroids.shape[-1] if isinstance(few, Codebook) else 2**few.bits


def pieces_of(tensors: dict[str, Tensor], form: Form) -> list[Piece]:
    """The tensors, each with its part of the form. Raises UserError where the form is of other tensors."""
    parts = [*form.masks.items()]
    parts += [(name, codebook.indices) for name, codebook in form.codebooks.items()]
    parts += [(name, grid.q) for name, grid in form.grids.items()]
    for name, part in parts:
        if name not in tensors or tensors[name].shape != part.shape:
            found = list(tensors[name].shape) if name in tensors else "not there"
            raise UserError(
                f"'{name}' cannot be compressed: it is {found}, and its mask or codes are {list(part.shape)}"
            )
    return [_piece(name, tensor, form) for name, tensor in tensors.items()]


def _piece(name: str, tensor: Tensor, form: Form) -> Piece:
    dtype, mask, few = dtype_name(tensor), form.masks.get(name), form.codebooks.get(name) or form.grids.get(name)
    kept = _nonzero(tensor, few) if mask is None else bits_of(mask).view(bool)
    values = rows_of(tensor) if few is None else _symbols(few)
    values = values if kept is None else values[kept]
    zeros = tensor.numel() - int(torch.count_nonzero(tensor.double()))
    return Piece(name, dtype, tuple(tensor.shape), kept, mask is not None, few, values, zeros)


def _nonzero(tensor: Tensor, few: Codebook | Grid | None) -> np.ndarray | None:
    """Where most entries are zero without a mask, the others; as positions and values they take what they took."""
    if tensor.numel() <= POOLED or isinstance(few, Codebook) or (few is not None and few.zero_point is not None):
        return None
    nonzero: np.ndarray = bits_of(tensor if few is None else few.q) != 0
    return nonzero if np.count_nonzero(nonzero) * 2 < len(nonzero) else None


def _symbols(few: Codebook | Grid) -> np.ndarray:
    if isinstance(few, Codebook):
        return rows_of(few.indices)[:, 0]
    return (rows_of(few.q)[:, 0].view(np.int8).astype(np.int16) + 2 ** (few.bits - 1)).astype(np.uint8)
