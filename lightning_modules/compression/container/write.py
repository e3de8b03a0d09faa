"""Writes a compressed file, and does not count it as written before it was decoded and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compression.container.account import account
from lightning_modules.compression.container.encode import Pools, encode_piece
from lightning_modules.compression.container.envelope import put, seal
from lightning_modules.compression.container.piece import bits_of, pieces_of
from lightning_modules.compression.container.read import decode_file
from lightning_modules.compression.container.written import Written
from lightning_modules.compression.form import Form
from lightning_modules.errors import UserError


def write(path: Path, tensors: dict[str, Tensor], form: Form, header: dict[str, Any]) -> Written:
    """Write the tensors of a network, `form` being what they are made of; `header`: plain values for the reader.

    An entry that a mask leaves out comes back as +0, its symbol as 0 or the zero point; all else bit for bit.
    Raises UserError where the tensors are not what the form says, hold a type that has no place, or the disk is full;
    a file that was there before is then as it was.
    """
    pieces, pools = pieces_of(tensors, form), Pools()
    coded = [encode_piece(piece, pools) for piece in pieces]
    records, shared = pools.encode()
    inner = {"header": header, "steps": form.steps, "pools": records, "tensors": [record for record, _ in coded]}
    data = shared + b"".join(own for _, own in coded)
    _check_same(decode_file(path, json.loads(json.dumps(inner)), data), tensors, form)
    file = seal(inner, data)
    put(path, file)
    stored = account(pieces, [(record, len(own)) for record, own in coded], pools, records)
    return Written(path, len(file), sum(tensor.bound_bytes for tensor in stored), stored)


def _check_same(read: tuple[dict[str, Any], dict[str, Tensor], Form], tensors: dict[str, Tensor], form: Form) -> None:
    """Raise UserError where the tensors that were read are not, bit for bit, the ones that were written."""
    _, found, found_form = read
    for name, tensor in tensors.items():
        mask = form.masks.get(name)
        wrong = bits_of(found[name]) != bits_of(tensor)
        if mask is not None:
            # A negative weight times a mask of zero is -0: as good as the +0 that is read.
            wrong &= bits_of(mask).view(bool) | bits_of(tensor.double() != 0).view(bool)
        if wrong.any():
            raise UserError(
                f"'{name}' cannot be compressed: {wrong.sum()} of its values are not what its mask, codebook or grid says"
                " (is the form applied, and are there no NaNs?)"
            )
    if not _equal(form, found_form):
        raise RuntimeError("masks, codebooks or grids do not come back as they are")


def _equal(form: Form, found: Form) -> bool:
    """The same masks, symbols of the kept entries, centroids, scales and zero points."""
    pairs = [(form.masks[name], found.masks[name]) for name in form.masks]
    for name, codebook in form.codebooks.items():
        other = found.codebooks[name]
        pairs += [(codebook.centroids, other.centroids), _kept(form, name, codebook.indices, other.indices)]
    for name, grid in form.grids.items():
        same = found.grids[name]
        pairs += [(grid.scale, same.scale), _kept(form, name, grid.q, same.q)]
        if grid.zero_point is not None and same.zero_point is not None:
            pairs.append((grid.zero_point, same.zero_point))
    return all(a.shape == b.shape and np.array_equal(bits_of(a), bits_of(b)) for a, b in pairs)


def _kept(form: Form, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    mask = form.masks.get(name, torch.ones_like(b, dtype=torch.bool)).cpu()
    return a.cpu()[mask], b[mask]
