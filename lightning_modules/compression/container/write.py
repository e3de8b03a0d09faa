"""Writes a compressed file, and does not count it as written before it was decoded and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.container.encode import SharedStreams, encode_tensor
from lightning_modules.compression.container.entropy_report import entropy_report
from lightning_modules.compression.container.envelope import wrap, write_atomic
from lightning_modules.compression.container.read import decode_file
from lightning_modules.compression.container.tensor_encoding import plan_encodings, to_bit_patterns
from lightning_modules.compression.container.written import WriteReport
from lightning_modules.config.errors import UserError


def write(path: Path, tensors: dict[str, Tensor], state: CompressedState, header: dict[str, Any]) -> WriteReport:
    """Write the tensors of a network, `form` being what they are made of; `header`: plain values for the reader.

    An entry that a mask leaves out comes back as +0, its symbol as 0 or the zero point; all else bit for bit.
    Raises UserError where the tensors are not what the form says, hold a type that has no place, or the disk is full;
    a file that was there before is then as it was.
    """
    pieces, pools = plan_encodings(tensors, state), SharedStreams()
    coded = [encode_tensor(piece, pools) for piece in pieces]
    records, shared = pools.encode()
    inner = {"header": header, "steps": state.steps, "pools": records, "tensors": [record for record, _ in coded]}
    data = shared + b"".join(own for _, own in coded)
    _check_round_trip(decode_file(path, json.loads(json.dumps(inner)), data), tensors, state)
    file = wrap(inner, data)
    write_atomic(path, file)
    stored = entropy_report(pieces, [(record, len(own)) for record, own in coded], pools, records)
    return WriteReport(path, len(file), sum(tensor.bound_bytes for tensor in stored), stored)


def _check_round_trip(
    read: tuple[dict[str, Any], dict[str, Tensor], CompressedState], tensors: dict[str, Tensor], state: CompressedState
) -> None:
    """Raise UserError where the tensors that were read are not, bit for bit, the ones that were written."""
    _, found, found_form = read
    for name, tensor in tensors.items():
        mask = state.masks.get(name)
        wrong = to_bit_patterns(found[name]) != to_bit_patterns(tensor)
        if mask is not None:
            # A negative weight times a mask of zero is -0: as good as the +0 that is read.
            wrong &= to_bit_patterns(mask).view(bool) | to_bit_patterns(tensor.double() != 0).view(bool)
        if wrong.any():
            raise UserError(
                f"'{name}' cannot be compressed: {wrong.sum()} of its values are not what its mask, codebook or grid says"
                " (is the form applied, and are there no NaNs?)"
            )
    if not _same_state(state, found_form):
        raise RuntimeError("masks, codebooks or grids do not come back as they are")


def _same_state(state: CompressedState, found: CompressedState) -> bool:
    """The same masks, symbols of the kept entries, centroids, scales and zero points."""
    pairs = [(state.masks[name], found.masks[name]) for name in state.masks]
    for name, codebook in state.codebooks.items():
        other = found.codebooks[name]
        pairs += [(codebook.centroids, other.centroids), _kept_pair(state, name, codebook.indices, other.indices)]
    for name, grid in state.grids.items():
        same = found.grids[name]
        pairs += [(grid.scale, same.scale), _kept_pair(state, name, grid.q, same.q)]
        if grid.zero_point is not None and same.zero_point is not None:
            pairs.append((grid.zero_point, same.zero_point))
    return all(a.shape == b.shape and np.array_equal(to_bit_patterns(a), to_bit_patterns(b)) for a, b in pairs)


def _kept_pair(state: CompressedState, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    mask = state.masks.get(name, torch.ones_like(b, dtype=torch.bool)).cpu()
    return a.cpu()[mask], b[mask]
