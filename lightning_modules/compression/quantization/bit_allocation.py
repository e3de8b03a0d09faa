"""Bit allocation: the sensitivity of each layer to quantization, and the cheapest bits under a size budget."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState, QuantizedWeight
from lightning_modules.compression.pruning.saliency import mean_over_batches
from lightning_modules.compression.stage import StageContext

SensitivityTable = dict[str, dict[int, float]]  # cost by weight and bits


def fisher_sensitivity(
    context: StageContext, made: Mapping[str, Mapping[int, QuantizedWeight]], batches: int
) -> SensitivityTable:
    """Half the sum of (gradient * error)^2 over a weight's entries: the increase of the loss to second order.

    The diagonal of the empirical Fisher matrix, averaged over mini-batches, approximates that of the Hessian (diagonal
    approximation of LeCun et al. 1990, "Optimal brain damage").
    """
    parameters = dict(context.model.named_parameters())
    weights = {name: parameters[name] for name in made}
    fisher = mean_over_batches(context, weights, batches, lambda w, g: g.square(), label_smoothing=True)

    def cost(name: str, quantized: QuantizedWeight) -> float:
        error = context.state.values(name, quantized) - weights[name].detach()
        return 0.5 * float((fisher[name] * error.square()).sum())

    return {name: {bits: cost(name, each) for bits, each in choices.items()} for name, choices in made.items()}


def metric_sensitivity(context: StageContext, made: Mapping[str, Mapping[int, QuantizedWeight]]) -> SensitivityTable:
    """How much worse the monitored metric becomes with one layer quantized; one evaluation for each layer and width."""
    sign = -1.0 if context.higher_is_better else 1.0
    dense = context.evaluate(context.model)
    table: SensitivityTable = {}
    for name, choices in made.items():
        table[name] = {}
        for bits, quantized in choices.items():
            model = deepcopy(context.model)
            dict(model.named_parameters())[name].data.copy_(context.state.values(name, quantized))
            table[name][bits] = sign * (context.evaluate(model) - dense)
    return table


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


# --- size budgets --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BitBudget:
    """Sizes in bits, before entropy coding.

    Attributes:
        kept: number of unmasked entries of each selected weight.
        tables: for each selected weight and width, the number of centroids or scales, 32 bits each.
        most: the largest allowed size of the selected weights.
        fixed, dense: size of the rest of the network, and of the network in float32; 0 for a budget of mean bits.
    """

    kept: Mapping[str, int]
    tables: Mapping[str, Mapping[int, int]]
    most: float
    fixed: int = 0
    dense: int = 0

    def size(self, name: str, bits: int) -> float:
        """The size of one weight."""
        return self.kept[name] * bits + 32 * self.tables[name][bits]

    def reached(self, total: float) -> float:
        """The mean bits, or the size ratio, for a `total` size of the selected weights."""
        return self.dense / (self.fixed + total) if self.dense else total / max(1, sum(self.kept.values()))


def mean_budget(bits: float, kept: Mapping[str, int], choices: list[int]) -> BitBudget:
    """A budget of mean bits for each unmasked entry; tables do not count."""
    return BitBudget(kept, {name: dict.fromkeys(choices, 0) for name in kept}, bits * sum(kept.values()))


def ratio_budget(
    ratio: float,
    model: nn.Module,
    state: CompressedState,
    kept: Mapping[str, int],
    tables: Mapping[str, dict[int, int]],
) -> BitBudget:
    """A network `ratio` times smaller than in float32; other weights have 32 bits, a mask one bit for each entry."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dense = 32 * sum(tensor.numel() for tensor in tensors.values())
    others = count_unmasked({name: tensor for name, tensor in tensors.items() if name not in kept}, state)
    fixed = 32 * sum(others.values()) + sum(mask.numel() for mask in state.masks.values())
    return BitBudget(kept, tables, dense / ratio - fixed, fixed, dense)


def count_unmasked(weights: Mapping[str, Tensor], state: CompressedState) -> dict[str, int]:
    """The number of unmasked entries of each weight."""
    return {n: int(state.masks[n].sum()) if n in state.masks else weight.numel() for n, weight in weights.items()}
