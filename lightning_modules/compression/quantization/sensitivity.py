"""How much a layer suffers from few bits, and the bits that cost least under a budget."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from lightning_modules.compression.form import Codebook, Form, Grid
from lightning_modules.compression.stage import Work

Few = Codebook | Grid
Table = dict[str, dict[int, float]]  # of a layer's weight by bits


def by_proxy(work: Work, made: Mapping[str, Mapping[int, Few]], batches: int) -> Table:
    """Half the sum over a weight's entries of (g * error)^2, g its gradient: the rise of the loss to second order.

    The diagonal of the empirical Fisher matrix, averaged over mini-batches, stands for that of the Hessian (the diagonal
    approximation of LeCun et al. 1990, "Optimal brain damage").
    """
    squares = squared_gradients(work, list(made), batches)
    weights = dict(work.model.named_parameters())
    return {
        name: {
            bits: 0.5 * float((squares[name] * (values(work.form, name, few) - weights[name].detach()).square()).sum())
            for bits, few in choices.items()
        }
        for name, choices in made.items()
    }


def squared_gradients(work: Work, names: list[str], batches: int) -> dict[str, Tensor]:
    """The mean over `batches` mini-batches of the squared gradient of the task's loss, by weight."""
    model = deepcopy(work.model).cpu().eval()
    weights = {name: parameter for name, parameter in model.named_parameters() if name in names}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = 0
    with torch.enable_grad():
        for batch, _ in zip(work.batches(), range(batches), strict=False):
            seen += 1
            loss = work.task.loss(model(work.floats(batch["x"])), work.task.target_of(batch))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient.detach().square()
    return {name: square / max(seen, 1) for name, square in squares.items()}


def by_evaluation(work: Work, made: Mapping[str, Mapping[int, Few]]) -> Table:
    """How much worse the monitored metric becomes with this one layer in few bits; one evaluation each."""
    sign = -1.0 if work.higher_is_better else 1.0
    dense = work.evaluate(work.model)
    table: Table = {}
    for name, choices in made.items():
        table[name] = {}
        for bits, few in choices.items():
            model = deepcopy(work.model)
            dict(model.named_parameters())[name].data.copy_(values(work.form, name, few))
            table[name][bits] = sign * (work.evaluate(model) - dense)
    return table


def values(form: Form, name: str, few: Few) -> Tensor:
    """The weight that a codebook or grid gives, with the masked entries at zero."""
    weight, mask = few.values(), form.masks.get(name)
    return weight if mask is None else weight * mask.to(weight.device)


def choose_bits(table: Table, size: Callable[[str, int], float], budget: float) -> tuple[dict[str, int], float]:
    """The bits of each layer, and their size: beginning with the most, the step down that costs least for each bit of
    size saved, until the size is within `budget` (or nothing is left to take: the caller looks at the size).

    The greedy walk along each layer's lower convex hull; it is optimal up to its last step for additive costs
    (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers").
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
