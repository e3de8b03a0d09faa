"""The two factors of a layer of low rank: which rank saves weights, and the factors' values from an SVD."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

FACTORIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


def max_useful_rank(layer: nn.Module) -> int:
    """The largest rank at which two factors have fewer weights than `layer`; 0 if it cannot be factorized.

    Subclasses cannot, since they may use their weight differently (standardized, or read by torch's attention).
    """
    if (
        type(layer) not in FACTORIZABLE
        or getattr(layer, "groups", 1) != 1
        or getattr(layer, "padding_mode", "zeros") != "zeros"
    ):
        return 0
    weight: Any = layer.weight
    outputs, inputs = len(weight), weight[0].numel()
    return (outputs * inputs - 1) // (outputs + inputs)


def factor_layers(layer: Any, rank: int) -> nn.Sequential:
    """Two layers in place of `layer`, with uninitialized weights."""
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    biased = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first: nn.Module = skip_init(nn.Linear, layer.in_features, rank, bias=False, **like)
        second: nn.Module = skip_init(nn.Linear, rank, layer.out_features, bias=biased, **like)
    else:
        way = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        first = skip_init(type(layer), layer.in_channels, rank, layer.kernel_size, bias=False, **way, **like)
        second = skip_init(type(layer), rank, layer.out_channels, 1, bias=biased, **like)
    return nn.Sequential(first, second).requires_grad_(layer.weight.requires_grad).train(layer.training)


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a weight as [out, in * kernel] in float64: U [out, k], singular values [k], V^T [k, in * kernel]."""
    return torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)


@torch.no_grad()
def load_factors(layers: Any, u: Tensor, values: Tensor, v: Tensor, rank: int, bias: Tensor | None) -> None:
    """Set two factors to the first `rank` components of an SVD, each with the square roots of the singular values."""
    root = values[:rank].sqrt()
    first, second = layers
    first.weight.copy_((root[:, None] * v[:rank]).view_as(first.weight))
    second.weight.copy_((u[:, :rank] * root).view_as(second.weight))
    if bias is not None:
        second.bias.copy_(bias)
