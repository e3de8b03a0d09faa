"""Counts a network's multiply-accumulates (MACs), parameters and nonzero parameters, if possible on the meta device."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one sample: half of the FLOPs that torch's counter reports.

    Matrix products, convolutions, attention and recurrent layers count; biases, norms, pooling and activations do not.
    If possible the network runs on the ``meta`` device: nothing is computed and no layer is fused. An ONNX model
    counts as 0.

    Args:
        example: floats [N, *input_shape] as the network reads them; the first is used.
    """
    one = example[:1]
    try:
        return _count(meta_copy(model), one.to("meta"))
    except (RuntimeError, NotImplementedError, TypeError):  # it depends on values, or is not torch code
        return _count(model, one)


def _count(model: nn.Module, example: Tensor) -> int:
    training = model.training
    model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused layers and attention would not be counted
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(training)
    return int(counter.get_total_flops()) // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_nonzero(model: nn.Module) -> int:
    """Number of nonzero parameters."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


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
