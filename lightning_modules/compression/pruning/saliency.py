"""Saliency criteria, which score each weight, and masks that prune the lowest scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression.stage import StageContext
from lightning_modules.config.errors import UserError
from lightning_modules.task.rng import derive_seed

Scores = dict[str, Tensor]
Weights = Mapping[str, Tensor]


def magnitude(context: StageContext, weights: Weights, batches: int) -> Scores:
    """|w| (Han et al. 2015, "Learning both weights and connections", section 3)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def random(context: StageContext, weights: Weights, batches: int) -> Scores:
    """Uniform random scores, equal in every call with the same seed, so that masks of growing sparsity are nested."""
    return uniform_scores(weights, context.seed)


def snip(context: StageContext, weights: Weights, batches: int) -> Scores:
    """|w g|, g the mean gradient over the batches (Lee et al. 2019, equations 4 and 5, without their constant).

    The network is in training mode: before the first step, where SNIP is applied, batch norm has no running statistics.
    """
    mean = mean_over_batches(context, weights, batches, lambda w, g: g, training=True)
    return {name: (weight.detach() * mean[name]).abs() for name, weight in weights.items()}


def taylor(context: StageContext, weights: Weights, batches: int) -> Scores:
    """Mean of (w g)^2 over the batches (Molchanov et al. 2019, equation 8, for single weights), in evaluation mode."""
    return mean_over_batches(context, weights, batches, lambda w, g: (w * g).square())


Criterion = Literal["magnitude", "random", "snip", "taylor"]
CRITERIA: dict[str, Callable[[StageContext, Weights, int], Scores]] = {
    "magnitude": magnitude, "random": random, "snip": snip, "taylor": taylor
}  # fmt: skip


def uniform_scores(weights: Weights, seed: int) -> Scores:
    """Uniform numbers in [0, 1), drawn on the CPU, so they are equal on every device and rank."""
    drawn: Scores = {}
    for number, (name, weight) in enumerate(weights.items()):
        generator = torch.Generator().manual_seed(derive_seed(seed, number, 0))
        drawn[name] = torch.rand(weight.shape, generator=generator).to(weight.device)
    return drawn


def mean_over_batches(
    context: StageContext,
    weights: Weights,
    batches: int,
    of: Callable[[Tensor, Tensor], Tensor],
    training: bool = False,
    label_smoothing: bool = False,
) -> Scores:
    """The mean of ``of(w, g)`` over the first `batches` training batches; g: gradient of the loss without penalties.

    Network, gradients and random state do not change. Raises UserError if there is no batch.

    Args:
        training: the mode of the network.
        label_smoothing: as in training; else the loss is that of evaluation.
    """
    total: Scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen, context = 0, context.for_gradients()
    parameters = dict(context.model.named_parameters(remove_duplicate=False))
    tensors = [parameters[name] for name in weights]
    with _temporary_gradients(context.model, tensors, training, context.seed):
        for batch in islice(context.batches(), batches):
            loss = context.loss(batch, label_smoothing)
            found = torch.autograd.grad(loss, tensors, materialize_grads=True)
            for (name, weight), g in zip(weights.items(), found, strict=True):
                total[name] += of(weight.detach(), g)
            seen += 1
    if not seen:
        raise UserError("compression: scores from gradients need training batches, but there are none")
    return {name: score / seen for name, score in total.items()}


@contextmanager
def _temporary_gradients(model: nn.Module, tensors: Sequence[Tensor], training: bool, seed: int) -> Iterator[None]:
    """Allow gradients, also of frozen weights; afterwards restore modes, flags, buffers and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [tensor.requires_grad for tensor in tensors]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = tensors[0].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(seed)
            model.train(training)
            for tensor in tensors:
                tensor.requires_grad_(True)
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for tensor, flag in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(flag)
        for buffer, before in buffers:
            buffer.copy_(before)


Masks = dict[str, Tensor]
CompetingGroups = Sequence[Sequence[str]]


def keep_highest(scores: Mapping[str, Tensor], groups: CompetingGroups, zeros: Sequence[int]) -> Masks:
    """Masks that prune exactly `zeros` weights of each group of tensors that compete with each other."""
    masks: Masks = {}
    for group, count in zip(groups, zeros, strict=True):
        flat = torch.cat([scores[name].flatten().float() for name in group])
        parts = _mask_of_highest(flat, count).split([scores[name].numel() for name in group])
        masks |= {name: part.view(scores[name].shape) for name, part in zip(group, parts, strict=True)}
    return masks


def _mask_of_highest(scores: Tensor, zeros: int) -> Tensor:
    """bool [n]: False for the `zeros` lowest of `scores` [n]; of equal scores the first are pruned."""
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # kthvalue is ten times as fast as sorting, but torch's deterministic mode does not allow it on CUDA
    threshold = scores.sort().values[zeros - 1] if scores.is_cuda else scores.kthvalue(zeros).values
    lower, equal = scores < threshold, scores == threshold
    return ~(lower | (equal & (equal.cumsum(0) <= zeros - lower.sum())))


def keep_n_of_m(scores: Mapping[str, Tensor], n: int, m: int) -> Masks:
    """Keep the `n` highest of every `m` consecutive weights along the input dimension (1: [out, in, *kernel]).

    This is the layout of sparse tensor cores (Mishra et al. 2021, "Accelerating sparse deep neural networks", section 2).
    In a convolution the groups run over input channels, at one position of the kernel.
    """
    masks: Masks = {}
    for name, score in scores.items():
        groups = score.movedim(1, -1).unflatten(-1, (-1, m))
        lowest = groups.argsort(dim=-1, stable=True)[..., : m - n]
        kept = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, lowest, False)
        masks[name] = kept.flatten(-2).movedim(-1, 1).contiguous()
    return masks


def exclude_pruned(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, with -inf where a mask has already pruned."""
    return {
        name: score.masked_fill(~masks[name].to(score.device), -torch.inf) if name in masks else score
        for name, score in scores.items()
    }


def group_by_layer(names: Iterable[str]) -> list[list[str]]:
    """Group parameters by layer: a layer's weight and bias compete with each other."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return list(layers.values())


def count_zeros(masks: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """How many weights of these parameters are pruned."""
    return sum(int((~masks[name]).sum()) for name in names if name in masks)
