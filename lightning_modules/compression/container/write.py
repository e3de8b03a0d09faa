"""Writes a compressed file, after checking that it decodes to the same tensors."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantizedWeight
from lightning_modules.compression.container.entropy_report import WriteReport, entropy_report
from lightning_modules.compression.container.envelope import Header, wrap, write_atomic
from lightning_modules.compression.container.read import Contents, decode_file
from lightning_modules.compression.container.symbol_codecs import encode_symbols
from lightning_modules.compression.container.tensor_encoding import (
    Record,
    SharedRecords,
    TensorEncoding,
    dtype_name,
    num_symbols,
    plan_encodings,
    to_bit_patterns,
    to_byte_rows,
)
from lightning_modules.compression.container.value_codecs import Streams, encode_plain, encode_positions
from lightning_modules.config.errors import UserError


def write(path: Path, tensors: dict[str, Tensor], state: CompressedState, header: Header) -> WriteReport:
    """Write the tensors of a network, its compressed state, and a header of plain values.

    Reading gives the same bits, except that masked entries become +0 and their symbols 0 or the zero point. Raises
    UserError if the tensors do not match the state or have an unsupported type, or if the disk is full; an existing
    file does not change then.
    """
    pieces, pools = plan_encodings(tensors, state), SharedStreams()
    coded = [encode_tensor(piece, pools) for piece in pieces]
    records, shared = pools.encode()
    inner = {"header": header, "steps": state.steps, "pools": records, "tensors": [record for record, _ in coded]}
    data = shared + b"".join(own for _, own in coded)
    _check_round_trip(decode_file(path, json.loads(json.dumps(inner)), data), tensors, state)
    file = wrap(inner, data)
    write_atomic(path, file)
    stored = entropy_report(pieces, [(record, len(own)) for record, own in coded], pools.rows, records)
    return WriteReport(path, len(file), sum(tensor.bound_bytes for tensor in stored), stored)


def _check_round_trip(read: Contents, tensors: dict[str, Tensor], state: CompressedState) -> None:
    """Raise UserError if the tensors that were read differ in any bit from those that were written."""
    _, found, found_form = read
    for name, tensor in tensors.items():
        mask = state.masks.get(name)
        wrong = to_bit_patterns(found[name]) != to_bit_patterns(tensor)
        if mask is not None:
            # A negative weight times a mask of zero is -0, which becomes +0.
            wrong &= to_bit_patterns(mask).view(bool) | to_bit_patterns(tensor.double() != 0).view(bool)
        if wrong.any():
            raise UserError(
                f"'{name}' cannot be compressed: {wrong.sum()} of its values differ from its mask, codebook or grid "
                "(was the compressed state applied, and are there NaNs?)"
            )
    if not _same_state(state, found_form):
        raise RuntimeError("masks, codebooks or grids changed in a round trip")


def _same_state(state: CompressedState, found: CompressedState) -> bool:
    """The same masks, symbols of the kept entries, centroids, scales and zero points."""
    pairs: list[tuple[Tensor, Tensor | None]] = [(state.masks[name], found.masks[name]) for name in state.masks]

    def add_symbols(name: str, symbols: Tensor, read: Tensor) -> None:
        kept = state.masks.get(name, torch.ones_like(read, dtype=torch.bool)).cpu()
        pairs.append((symbols.cpu()[kept], read[kept]))

    for name, codebook in state.codebooks.items():
        pairs.append((codebook.centroids, found.codebooks[name].centroids))
        add_symbols(name, codebook.indices, found.codebooks[name].indices)
    for name, grid in state.grids.items():
        same = found.grids[name]
        pairs += [(grid.scale, same.scale), *([] if grid.zero_point is None else [(grid.zero_point, same.zero_point)])]
        add_symbols(name, grid.q, same.q)
    return all(
        b is not None and a.shape == b.shape and np.array_equal(to_bit_patterns(a), to_bit_patterns(b))
        for a, b in pairs
    )


# --- one tensor ----------------------------------------------------------------------------------------------------


class SharedStreams:
    """Streams of plain values of many small tensors, one for each dtype, which share one frequency table."""

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, dtype: str, rows: np.ndarray) -> None:
        self.rows.setdefault(dtype, []).append(rows)

    def encode(self) -> tuple[SharedRecords, bytes]:
        """Returns ``{dtype: [entries, streams]}`` and the data."""
        records, blob = {}, b""
        for dtype, parts in self.rows.items():
            rows = np.concatenate(parts)
            streams, data = encode_plain(rows)
            records[dtype] = [len(rows), streams]
            blob += data
        return records, blob


def encode_tensor(piece: TensorEncoding, pools: SharedStreams) -> tuple[Record, bytes]:
    """The record of a tensor, and its data except for what was added to the shared streams: positions, then values."""
    record: Record = {"name": piece.name, "dtype": piece.dtype, "shape": list(piece.shape)}
    streams: Streams = []
    data = b""
    for side in piece.aux_tensors:
        pools.add(dtype_name(side), to_byte_rows(side))
    if piece.is_shared:
        codec = "pool"
        pools.add(piece.dtype, piece.values)
    elif piece.quantized is None:
        codec = "plain"
        streams, data = encode_plain(piece.values)
    else:
        codec = "codebook" if isinstance(piece.quantized, Codebook) else "grid"
        record["few"] = _quantized_record(piece.quantized)
        coder, data = encode_symbols(piece.values, num_symbols(piece.quantized))
        streams = [[coder, len(data)]]
    record |= {"codec": codec, "values": streams}
    if piece.kept is not None:
        kept, where = encode_positions(piece.kept)
        record |= {"kept": [*kept, len(where)], "masked": piece.masked}
        data = where + data
    return record, data


def _quantized_record(quantized: QuantizedWeight) -> Record:
    if isinstance(quantized, Codebook):
        return {"centroids": list(quantized.centroids.shape), "dtype": dtype_name(quantized.centroids)}
    return {"bits": quantized.bits, "groups": len(quantized.scale), "zero_point": quantized.zero_point is not None}
