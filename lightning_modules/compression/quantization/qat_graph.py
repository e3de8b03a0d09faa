"""A captured network with fake quantization in it, that Lightning trains as any other."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lightning_modules.compat.torch import share_members
from lightning_modules.compression.onnx_model import silence_output
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.quantization.pt2e import PT2E, capture_graph, x86_quantizer
from lightning_modules.config.errors import UserError

# Which argument of an operator says whether it trains: a captured graph has it as a constant.
TRAINING_FLAG_ARGUMENTS = {"batch_norm": 5, "dropout": 2, "dropout_": 2, "feature_dropout": 2, "feature_dropout_": 2}
TOLERANCE = 1e-2  # of the logits' norm: batch norm is folded into the weights and divided out again


class QATGraph(nn.Module):
    """The trainable network of quantization-aware training: floats [B, *input_shape] -> [B, num_outputs].

    Parameters and buffers have the names that they have in the network it was made from, so masks, optimizer groups and
    checkpoints know them; the observers' own come beside them. It follows `training` when it is called: a graph has its
    mode in its operators' arguments, and Lightning sets the flag without calling ``train()``. Ranges are observed in
    training only, until `freeze`.
    """

    observers_frozen: Tensor

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        # What hangs on the graph hangs here under the same name; the graph itself would be a prefix to all names.
        share_members(self, graph)
        self.__dict__["graph"] = graph
        self.register_buffer("observers_frozen", torch.zeros((), dtype=torch.uint8))
        self._mode: tuple[bool, bool] | None = None

    def forward(self, x: Tensor) -> Tensor:
        mode = (self.training, self.training and not self._frozen)
        if self._mode != mode:
            self._follow(*mode)
        return self.__dict__["graph"](x)

    @property
    def _frozen(self) -> bool:
        return bool(self.observers_frozen)

    def freeze(self) -> None:
        """Observe no more: scales stay as they are, so that the weights settle on one grid."""
        self.observers_frozen.fill_(1)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """See the ranges of `x`, in evaluation mode: every observer has its shape and first range from the first call."""
        self._follow(training=False, observing=True)
        self.__dict__["graph"](x)

    def _follow(self, training: bool, observing: bool) -> None:
        graph: GraphModule = self.__dict__["graph"]
        for node in graph.graph.nodes:
            name = getattr(node.target, "__name__", "").partition(".")[0]
            if node.op == "call_function" and name in TRAINING_FLAG_ARGUMENTS:
                node.update_arg(TRAINING_FLAG_ARGUMENTS[name], training)
        graph.recompile()
        fake = optional_import(f"{PT2E}.fake_quantize")
        self.apply(fake.enable_observer if observing else fake.disable_observer)
        self._mode = (training, observing)

    def __deepcopy__(self, memo: dict[int, Any]) -> "QATGraph":
        copy = QATGraph(deepcopy(self.__dict__["graph"], memo))
        copy.observers_frozen.copy_(self.observers_frozen)
        return copy.train(self.training)


def convert_to_int8(network: QATGraph) -> GraphModule:
    """The network in int8, as it was trained; `network` stays as it is."""
    copy = deepcopy(network).cpu()
    copy._follow(training=False, observing=False)
    with silence_output():
        return optional_import(f"{PT2E}.quantize_pt2e").convert_pt2e(copy.__dict__["graph"])


def prepare_qat(model: nn.Module, example: Tensor, reduce_range: bool = False) -> QATGraph:
    """A copy of a network, on the CPU, ready for quantization-aware training.

    Raises UserError where it cannot be captured or holds nothing to quantize, and where the captured network computes
    something else in evaluation mode: its dropout, say, is not one that can be switched off.
    """
    own = deepcopy(model).cpu()
    with torch.no_grad():
        expected = own.eval()(example)
    graph = capture_graph(own, example, training=True)
    literals = _batch_norm_literals(graph)
    with silence_output():
        prepare = optional_import(f"{PT2E}.quantize_pt2e").prepare_qat_pt2e
        graph = prepare(graph, x86_quantizer(training=True, reduce_range=reduce_range))
    _restore_batch_norm_literals(graph, literals)
    network = QATGraph(graph)
    fake = optional_import(f"{PT2E}.fake_quantize")
    if not any(isinstance(module, fake.FakeQuantizeBase) for module in network.modules()):
        raise UserError("nothing of the network would be quantized: it has no layer that torchao knows in int8")
    network.apply(fake.disable_fake_quant)
    with torch.no_grad():
        found = network.eval()(example)
    if (found - expected).norm() > TOLERANCE * expected.norm():
        raise UserError("the captured network does not compute what the network does in evaluation mode")
    network.apply(fake.enable_fake_quant)
    return network.train()


def _batch_norm_literals(graph: GraphModule) -> dict[str, tuple[float, float]]:
    """Momentum and epsilon of each batch norm, by the name of its running mean."""
    return {node.args[3].target: (node.args[6], node.args[7]) for node in _batch_norms(graph)}


def _restore_batch_norm_literals(graph: GraphModule, literals: dict[str, tuple[float, float]]) -> None:
    """Undo that torchao's fusion of convolution and batch norm writes the default momentum and epsilon."""
    for norm in _batch_norms(graph):
        momentum, epsilon = literals[norm.args[3].target]
        norm.update_arg(6, momentum)
        norm.update_arg(7, epsilon)
        for node in graph.graph.nodes:  # sqrt(running_var + epsilon), by which the weight is scaled
            variance = node.args[0] if node.args else None
            if (
                getattr(node.target, "__name__", "") == "add.Tensor"
                and getattr(variance, "target", 0) == norm.args[4].target
            ):
                node.update_arg(1, epsilon)
    graph.recompile()


def _batch_norms(graph: GraphModule) -> list[Any]:
    return [node for node in graph.graph.nodes if node.target == torch.ops.aten.batch_norm.default]
