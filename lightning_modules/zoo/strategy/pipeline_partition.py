"""Partition of a network into consecutive parts of equal cost that pass on one tensor each.

Longer than 200 lines: tracing, costs and cuts of one graph.
"""

import operator
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.compat.torch import own_parameters
from lightning_modules.config.errors import UserError

_IN_PLACE_OPS = ("iadd", "isub", "imul", "itruediv")


def unsupported(model: nn.Module, why: str) -> UserError:
    """The error for a network that cannot be split."""
    return UserError(f"strategy=pipeline: {type(model).__name__} {why}; use strategy=fsdp2 or strategy=ddp")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules without submodules are leaves: they may depend on data or on the training mode."""
        return super().is_leaf_module(m, module_qualified_name) or not any(True for _ in m.children())


def trace(model: nn.Module) -> fx.Graph:
    """The graph of `model`, which must be the same in training and evaluation."""
    training, programs = model.training, []
    try:
        for mode in (False, True):
            programs.append(_Tracer().trace(model.train(mode)))
    except Exception as error:  # tracing runs the network's code, which may raise anything
        raise unsupported(model, f"cannot be traced by torch.fx ({error})") from error
    finally:
        model.train(training)
    if str(programs[0]) != str(programs[1]):
        raise unsupported(model, "has different graphs in training and evaluation")
    if sum(node.op == "placeholder" for node in programs[0].nodes) != 1:
        raise unsupported(model, "takes more than one argument")
    if not isinstance(programs[0].output_node().args[0], fx.Node):
        raise unsupported(model, "returns more than one tensor")
    return programs[0]


class TracedGraph:
    """A traced network as a list of nodes in execution order."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model, self.graph = model, graph
        self.input = next(node for node in graph.nodes if node.op == "placeholder")
        self.nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self.place = {node: i for i, node in enumerate(self.nodes)} | {self.input: -1}
        self.tensors = [self._tensors_of(node) for node in self.nodes]

    def _tensors_of(self, node: fx.Node) -> list[Tensor]:
        """Parameters and buffers that a node uses."""
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return [*module.parameters(), *module.buffers()]
        read = (operator.attrgetter(str(n.target))(self.model) for n in node.all_input_nodes if n.op == "get_attr")
        return [value for value in read if isinstance(value, Tensor)]

    @cached_property
    def cut_points(self) -> dict[int, fx.Node]:
        """The positions after which later nodes need only one value, and no weight used before, with that value."""
        end = len(self.nodes)
        last = {node: max((self.place.get(u, end) for u in node.users), default=-1) for node in self.place}
        used: dict[int, list[int]] = {}
        for i, tensors in enumerate(self.tensors):
            for tensor in tensors:
                used.setdefault(id(tensor), []).append(i)
        found = {}
        for i in range(end - 1):
            alive = [node for node, place in self.place.items() if place <= i < last[node]]
            parted = any(places[0] <= i < places[-1] for places in used.values())
            if len(alive) == 1 and not parted and not any(self._overwrites(u, alive[0]) for u in alive[0].users):
                found[i] = alive[0]
        return found

    def _overwrites(self, step: fx.Node, value: fx.Node) -> bool:
        """Whether a node changes a value in place, which autograd forbids for received activations."""
        if step.args[:1] != (value,):
            return False
        if step.op == "call_module":
            return bool(getattr(self.model.get_submodule(str(step.target)), "inplace", False))
        name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", "")
        return name in _IN_PLACE_OPS or name.endswith("_") or bool(step.kwargs.get("inplace"))

    def part(self, begin: int, end: int) -> fx.GraphModule:
        """The nodes from `begin` to `end` as a module with one input."""
        steps, graph = self.nodes[begin : end + 1], fx.Graph()
        needed = (n for node in steps for n in node.all_input_nodes if n.op != "get_attr")
        outside = [n for n in dict.fromkeys(needed) if not begin <= self.place[n] <= end]
        new = {node: graph.placeholder("x") for node in outside or [self.input]}
        for node in steps:
            for constant in (n for n in node.all_input_nodes if n.op == "get_attr" and n not in new):
                new[constant] = graph.node_copy(constant)
            new[node] = graph.node_copy(node, new.__getitem__)
        if end + 1 == len(self.nodes):
            graph.output(new[self.graph.output_node().all_input_nodes[0]])
        else:  # only contiguous tensors can be sent
            graph.output(graph.call_method("contiguous", (new[self.cut_points[end]],)))
        return fx.GraphModule(self.model, graph)


def partition(model: nn.Module, example: Tensor, parts: int, balance: str = "operations") -> list[fx.GraphModule]:
    """Parts that, one after the other, compute what `model` computes. They hold its own layers, under the same names.

    The network is traced by ``torch.fx``. It can be cut wherever later nodes need only one floating-point tensor, and no
    weight is used on both sides: between the layers of a chain, the blocks of a residual network or a transformer. The
    chosen cuts minimize the cost of the most expensive part and, among equals, the size of the tensors passed on.

    Args:
        example: a few samples, run through the network once.
        balance: cost measure: ``operations`` of matrix products and convolutions, or number of ``parameters``.

    Raises UserError if the graph depends on the data, or has too few cut points. Every part must have trainable weights.
    """
    program = TracedGraph(model, trace(model))
    profiler, training = _Profiler(model, program.graph), model.training
    try:
        with torch.no_grad():
            model.eval()
            profiler.run(example)
    except Exception as error:  # a graph that misses part of the network may raise anything
        raise unsupported(model, f"cannot be run from its torch.fx graph ({error})") from error
    finally:
        model.train(training)
    if balance == "operations":
        costs = [profiler.operations[node] for node in program.nodes]
    else:
        costs = [sum(t.numel() for t in tensors if isinstance(t, nn.Parameter)) for tensors in program.tensors]
    sizes = {i: profiler.numbers[node] for i, node in program.cut_points.items() if node in profiler.numbers}
    ends = _best_cuts(program, costs, sizes, parts)
    if ends is None:
        raise unsupported(
            model, f"cannot be split into {parts} consecutive parts that have weights and pass on one tensor"
        )
    begins = [0, *(end + 1 for end in ends)]
    return [program.part(begin, end) for begin, end in zip(begins, [*ends, len(program.nodes) - 1], strict=True)]


class _Profiler(fx.Interpreter):
    """Runs a graph and records each node's operations and, for floating-point outputs, their size."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.operations: dict[fx.Node, int] = {}
        self.numbers: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.operations[n] = int(counter.get_total_flops())
        if isinstance(value, Tensor) and value.is_floating_point():
            self.numbers[n] = value.numel()
        return value


class _Partition(NamedTuple):
    """A partition: the cost of its most expensive part, the numbers passed on, and the last node of each part."""

    cost: float
    passed: int
    ends: tuple[int, ...]


def _best_cuts(
    program: TracedGraph, costs: Sequence[float], sizes: Mapping[int, int], parts: int
) -> tuple[int, ...] | None:
    """Positions to cut after, of those with the `sizes` of what is passed on; None if impossible, () for one part."""
    cost = [0.0, *accumulate(costs)]
    trained = [0, *accumulate(any(t.requires_grad for t in tensors) for tensors in program.tensors)]

    @cache
    def best(count: int, end: int) -> _Partition:
        """The best partition of the nodes up to and including `end` into `count` parts."""
        if count == 1:
            return _Partition(cost[end + 1] if trained[end + 1] else inf, 0, ())
        choices = [_Partition(inf, 0, ())]
        for place in sorted(sizes):
            if place < end and trained[end + 1] > trained[place + 1]:
                before = best(count - 1, place)
                most = max(before.cost, cost[end + 1] - cost[place + 1])
                choices.append(_Partition(most, before.passed + sizes[place], (*before.ends, place)))
        return min(choices)

    chosen = best(parts, len(costs) - 1)
    return chosen.ends if chosen.cost < inf else None


def drop_other_parts(model: nn.Module, part: nn.Module) -> None:
    """Move parameters outside of `part` to the meta device; the network's structure and names do not change."""
    own = {id(parameter) for parameter in part.parameters()}
    for module in model.modules():
        parameters = own_parameters(module)
        for name, parameter in parameters.items():
            if parameter is not None and id(parameter) not in own:
                parameters[name] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
