"""Many tensors as few vectors, so that a collective is called once and not once a tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten_by_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors into one vector for each dtype, in the order in which the dtypes first stand."""
    return [torch.cat([t.detach().reshape(-1) for t in group]) for group in _by_dtype(tensors)]


@torch.no_grad()
def unflatten_into(tensors: Sequence[Tensor], vectors: Sequence[Tensor]) -> None:
    """Copy what `pack` made of such tensors back into them."""
    for group, vector in zip(_by_dtype(tensors), vectors, strict=True):
        for tensor, part in zip(group, vector.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())
