"""What a network does to one sample, counted: multiply-accumulates, parameters, and those that are not zero."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.compression.meta_copy import meta_copy


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one sample: half of what torch's flop counter counts.

    Counted are matrix products, convolutions and attention, in recurrent layers too; not biases, norms, pooling and
    activations. Where it can, the network runs on the device ``meta``: nothing is computed, and no layer fused. A
    program of another runtime counts as 0.

    Args:
        example: floats [N, *input_shape] as the network reads them; the first is used.
    """
    one = example[:1]
    try:
        return _count(meta_copy(model), one.to("meta"))
    except (RuntimeError, NotImplementedError, TypeError):  # a network that looks at its numbers, or is no torch code
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
    """Number of parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())
