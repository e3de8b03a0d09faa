"""Synchronized batch norm on any device; torch's SyncBatchNorm does not run on CPUs."""

import types
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins import LayerSync
from torch import Tensor, nn

from lightning_modules.compat.torch import BatchNorm, check_input_dim, replace_forward, restore_forward


class SyncBatchNormLayers(LayerSync):
    """Makes a model's batch norm layers compute mean and variance over the batches of all ranks; `revert` undoes it.

    The layers are not replaced: names, checkpoints and references stay valid. Ranks may have batches of different sizes.
    A step sends 2 C + 1 numbers forward and 2 C backward for a layer of C channels.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        for layer in _batch_norms(model):
            replace_forward(layer, types.MethodType(_forward, layer))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for layer in _batch_norms(model):
            restore_forward(layer)
        return model


class _AllReduceSum(torch.autograd.Function):
    """Sum over the ranks. Every rank uses the sum, so its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _batch_norms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def _forward(self: BatchNorm, x: Tensor) -> Tensor:
    """Normalise x [B, C, …] over the samples of all ranks (Ioffe and Szegedy 2015, algorithm 1)."""
    if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
        return type(self).forward(self, x)
    check_input_dim(self, x)
    axes = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = x.new_full((1,), x.numel() / x.shape[1])
    sums = _all_reduce_sum(torch.cat([x.sum(axes), count]))
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = x - mean.view(shape)
    variance = _all_reduce_sum(centred.square().sum(axes)) / count
    if self.track_running_stats:
        _update_running_stats(self, mean.detach(), variance.detach() * count / (count - 1))
    normal = centred * torch.rsqrt(variance + self.eps).view(shape)
    return normal * self.weight.view(shape) + self.bias.view(shape) if self.affine else normal


def _all_reduce_sum(values: Tensor) -> Tensor:
    return _AllReduceSum.apply(values)


@torch.no_grad()
def _update_running_stats(layer: Any, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics; a momentum of None means the cumulative average over all batches."""
    layer.num_batches_tracked.add_(1)
    share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), share)
