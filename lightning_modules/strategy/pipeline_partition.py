"""Where a network can be cut into parts that pass one tensor on, and which cuts make the parts equal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.compat.torch import own_parameters
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.strategy.pipeline_graph import TracedGraph, trace, unsupported

BALANCE_CHOICES = ("operations", "parameters")


def partition(model: nn.Module, example: Tensor, parts: int, balance: str = "operations") -> list[fx.GraphModule]:
    """Parts that give, one after the other, what `model` gives. They hold its own layers, under their names in it.

    The program of the network is traced by ``torch.fx``. It can be cut wherever nothing is needed further on but one
    tensor of floats, and no weight is used on both sides: between the layers of a chain, the blocks of a residual
    network or of a transformer. Of all cuts those are taken whose most expensive part is the cheapest; among
    equals those that pass on the smallest tensors.

    Args:
        example: input of a few samples, which is sent through once.
        balance: ``operations`` of matrix products and convolutions, or number of ``parameters``.

    Raises:
        UserError: the program depends on the data, or has too few such places. Every part must have weights to train.
    """
    if balance not in BALANCE_CHOICES:
        raise UserError(f"strategy.balance={balance}: {suggest(balance, BALANCE_CHOICES)}")
    program = TracedGraph(model, trace(model))
    profiler = _Profiler(model, program.graph)
    try:
        profiler.profile(model, example)
    except Exception as error:  # whatever a network raises whose traced program is not its own
        raise unsupported(model, f"cannot be run from its traced program ({error})") from error
    costs = [
        profiler.operations[n] if balance == "operations" else program.num_weights(i)
        for i, n in enumerate(program.nodes)
    ]
    ends = _best_cuts(
        program, costs, {i: n for i, n in program.cut_points.items() if n in profiler.numbers}, profiler, parts
    )
    if ends is None:
        found = "is no chain:" if parts == 2 else "is too short a chain:"
        raise unsupported(model, f"{found} it has no {parts} parts with weights that pass on one tensor")
    begins = [0, *(end + 1 for end in ends)]
    return [program.part(begin, end) for begin, end in zip(begins, [*ends, len(program.nodes) - 1], strict=True)]


class _Profiler(fx.Interpreter):
    """Runs a program and notes the operations of each step, and how many numbers come out where these are floats."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.operations: dict[fx.Node, int] = {}
        self.numbers: dict[fx.Node, int] = {}

    def profile(self, model: nn.Module, example: Tensor) -> None:
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                self.run(example)
        finally:
            model.train(training)

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.operations[n] = int(counter.get_total_flops())
        if isinstance(value, Tensor) and value.is_floating_point():
            self.numbers[n] = value.numel()
        return value


@dataclass(frozen=True, order=True)
class _Partition:
    """Some parts: the cost of the most expensive, the numbers that they pass on, and the steps that they end with."""

    cost: float
    passed: int
    ends: tuple[int, ...]


def _best_cuts(
    program: TracedGraph, costs: Sequence[float], cut_points: dict[int, fx.Node], profiler: _Profiler, parts: int
) -> tuple[int, ...] | None:
    """After which steps to cut; None where it is not possible, () for one part."""
    cost = [0.0, *accumulate(costs)]
    trained = [0, *accumulate(program.is_trained(i) for i in range(len(costs)))]
    places = sorted(cut_points)

    @cache
    def best(count: int, end: int) -> _Partition:
        """The steps up to and with `end`, in `count` parts."""
        if count == 1:
            return _Partition(cost[end + 1] if trained[end + 1] else inf, 0, ())
        choices = [_Partition(inf, 0, ())]
        for place in places:
            if place < end and trained[end + 1] > trained[place + 1]:
                before = best(count - 1, place)
                most = max(before.cost, cost[end + 1] - cost[place + 1])
                choices.append(
                    _Partition(most, before.passed + profiler.numbers[cut_points[place]], (*before.ends, place))
                )
        return min(choices)

    chosen = best(parts, len(costs) - 1)
    return chosen.ends if chosen.cost < inf else None


def drop_other_parts(model: nn.Module, part: nn.Module) -> None:
    """Leave the parameters without memory that are not of `part`; the network keeps its form and all its names."""
    own = {id(parameter) for parameter in part.parameters()}
    for module in model.modules():
        parameters = own_parameters(module)
        for name, parameter in parameters.items():
            if parameter is not None and id(parameter) not in own:
                bare = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                parameters[name] = bare
