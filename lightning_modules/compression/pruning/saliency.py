"""Saliency criteria: a score for each weight; the lowest are pruned first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    tensors, seen, task = list(weights.values()), 0, context.task
    with _temporary_gradients(context.model, tensors, training, context.seed):
        for batch in islice(context.batches(), batches):
            x, y = (batch[key].to(tensors[0].device) for key in ("x", "y"))
            outputs = context.model(context.preprocess(x))
            smooth = label_smoothing
            loss = task.loss(outputs, task.loss_target({"y": y})) if smooth else task.evaluation_loss(outputs, y)
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
