"""Bit allocation: the sensitivity of each layer to quantization, and the cheapest bits under a size budget."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, CompressedState, QuantGrid
from lightning_modules.compression.stage import StageContext

QuantizedWeight = Codebook | QuantGrid
SensitivityTable = dict[str, dict[int, float]]  # cost by weight and bits


def fisher_sensitivity(
    context: StageContext, made: Mapping[str, Mapping[int, QuantizedWeight]], batches: int
) -> SensitivityTable:
    """Half the sum of (gradient * error)^2 over a weight's entries: the increase of the loss to second order.

    The diagonal of the empirical Fisher matrix, averaged over mini-batches, approximates that of the Hessian (diagonal
    approximation of LeCun et al. 1990, "Optimal brain damage").
    """
    squares = squared_gradients(context, list(made), batches)
    weights = dict(context.model.named_parameters())
    return {
        name: {
            bits: 0.5
            * float(
                (squares[name] * (dequantize(context.state, name, quantized) - weights[name].detach()).square()).sum()
            )
            for bits, quantized in choices.items()
        }
        for name, choices in made.items()
    }


def squared_gradients(context: StageContext, names: list[str], batches: int) -> dict[str, Tensor]:
    """The mean over `batches` mini-batches of the squared gradient of the task's loss, by weight."""
    model = deepcopy(context.model).cpu().eval()
    weights = {name: parameter for name, parameter in model.named_parameters() if name in names}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = 0
    with torch.enable_grad():
        for batch, _ in zip(context.batches(), range(batches), strict=False):
            seen += 1
            loss = context.task.loss(model(context.preprocess(batch["x"])), context.task.loss_target(batch))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient.detach().square()
    return {name: square / max(seen, 1) for name, square in squares.items()}


def metric_sensitivity(context: StageContext, made: Mapping[str, Mapping[int, QuantizedWeight]]) -> SensitivityTable:
    """How much worse the monitored metric becomes with one layer quantized; one evaluation for each layer and width."""
    sign = -1.0 if context.higher_is_better else 1.0
    dense = context.evaluate(context.model)
    table: SensitivityTable = {}
    for name, choices in made.items():
        table[name] = {}
        for bits, quantized in choices.items():
            model = deepcopy(context.model)
            dict(model.named_parameters())[name].data.copy_(dequantize(context.state, name, quantized))
            table[name][bits] = sign * (context.evaluate(model) - dense)
    return table


def dequantize(state: CompressedState, name: str, quantized: QuantizedWeight) -> Tensor:
    """The values of a codebook or grid, with masked entries at zero."""
    weight, mask = quantized.values(), state.masks.get(name)
    return weight if mask is None else weight * mask.to(weight.device)


def allocate_bits(
    table: SensitivityTable, size: Callable[[str, int], float], budget: float
) -> tuple[dict[str, int], float]:
    """The bits of each layer and their total size, which may exceed `budget` if no more bits can be saved.

    Starts with the most bits and greedily takes the step with the smallest cost for each bit saved. For additive costs
    this is optimal up to the last step (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of
    quantizers").
    """
    chosen = {name: max(costs) for name, costs in table.items()}
    total = sum(size(name, bits) for name, bits in chosen.items())
    while total > budget:
        steps = [
            ((table[name][lower] - table[name][bits]) / (size(name, bits) - size(name, lower)), name, lower)
            for name, bits in chosen.items()
            for lower in table[name]
            if size(name, lower) < size(name, bits)
        ]
        if not steps:
            break
        _, name, lower = min(steps)
        total += size(name, lower) - size(name, chosen[name])
        chosen[name] = lower
    return chosen, total
