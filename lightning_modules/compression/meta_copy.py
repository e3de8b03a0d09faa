"""Copies a network to the meta device, where shapes can be tried without computing anything."""

import copy
from typing import Any

from torch import Tensor, nn


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with parameters and buffers on the ``meta`` device; all parameters require gradients."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = _to_meta(tensor)
    return copy.deepcopy(model, memo).eval()


def _to_meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    floats = empty.is_floating_point() or empty.is_complex()
    return nn.Parameter(empty, requires_grad=floats) if isinstance(tensor, nn.Parameter) else empty
