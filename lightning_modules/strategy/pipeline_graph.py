"""The program of a network, as torch.fx traces it, and the places where little passes from one step to the next."""

import operator
from functools import cached_property

from torch import Tensor, fx, nn

from lightning_modules.config.errors import UserError

_IN_PLACE_OPS = ("iadd", "isub", "imul", "itruediv")


def unsupported(model: nn.Module, why: str) -> UserError:
    """For a network that cannot be cut."""
    return UserError(f"strategy=pipeline: {type(model).__name__} {why}; use strategy=fsdp2 or strategy=ddp")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules without others in them stay whole: they may ask for data, or whether this is training."""
        return super().is_leaf_module(m, module_qualified_name) or not any(True for _ in m.children())


def trace(model: nn.Module) -> fx.Graph:
    """The program of `model`, which must be one in training and in evaluation."""
    training, programs = model.training, []
    try:
        for mode in (False, True):
            programs.append(_Tracer().trace(model.train(mode)))
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise unsupported(model, f"cannot be traced by torch.fx ({error})") from error
    finally:
        model.train(training)
    if str(programs[0]) != str(programs[1]):
        raise unsupported(model, "is another program in training than in evaluation")
    if sum(node.op == "placeholder" for node in programs[0].nodes) != 1:
        raise unsupported(model, "takes more than one argument")
    if not isinstance(programs[0].output_node().args[0], fx.Node):
        raise unsupported(model, "gives more than one tensor")
    return programs[0]


class TracedGraph:
    """A traced network as a list of steps."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model, self.graph = model, graph
        self.input = next(node for node in graph.nodes if node.op == "placeholder")
        self.nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self.place = {node: i for i, node in enumerate(self.nodes)} | {self.input: -1}
        self.tensors = [self._tensors_of(node) for node in self.nodes]

    def _tensors_of(self, node: fx.Node) -> list[Tensor]:
        """Parameters and buffers that a step uses."""
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return [*module.parameters(), *module.buffers()]
        read = (operator.attrgetter(str(n.target))(self.model) for n in node.all_input_nodes if n.op == "get_attr")
        return [value for value in read if isinstance(value, Tensor)]

    def num_weights(self, i: int) -> int:
        return sum(t.numel() for t in self.tensors[i] if isinstance(t, nn.Parameter))

    def is_trained(self, i: int) -> bool:
        return any(t.requires_grad for t in self.tensors[i])

    @cached_property
    def cut_points(self) -> dict[int, fx.Node]:
        """The steps after which one value is needed further on, with this value, and no weight of before."""
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
        """Whether a step changes a value in place: what a part has received, autograd lets nobody change."""
        if step.args[:1] != (value,):
            return False
        if step.op == "call_module":
            return bool(getattr(self.model.get_submodule(str(step.target)), "inplace", False))
        name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", "")
        return name in _IN_PLACE_OPS or name.endswith("_") or bool(step.kwargs.get("inplace"))

    def part(self, begin: int, end: int) -> fx.GraphModule:
        """The steps from `begin` to `end` as a module of one input."""
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
        else:  # nothing else can be sent
            graph.output(graph.call_method("contiguous", (new[self.cut_points[end]],)))
        return fx.GraphModule(self.model, graph)
