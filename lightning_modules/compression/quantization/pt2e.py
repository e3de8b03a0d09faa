"""PyTorch 2 export quantization (torchao): networks as graphs, quantized after training or trained in int8."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lightning_modules.compat.torch import share_members
from lightning_modules.compression import optional_import
from lightning_modules.compression.onnx_model import eval_copy, first_error_line, silence_output, to_onnx
from lightning_modules.compression.quantization.onnx_stage import onnx_tempdir, read_model
from lightning_modules.config.errors import UserError

PT2E = "torchao.quantization.pt2e"


def capture_graph(model: nn.Module, example: Tensor, training: bool) -> GraphModule:
    """The network as a graph of ATen operators with a dynamic batch size; parameters and buffers keep their names.

    Raises UserError if ``torch.export`` cannot capture it.
    """
    model.train(training)
    _replace_same_padding(model)
    sample = torch.cat([example, example])[: max(2, len(example))]
    try:
        with silence_output():
            exported = torch.export.export(
                model, (sample,), strict=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:
        raise UserError(f"torch.export cannot capture the network: {first_error_line(error)}") from error
    graph = exported.module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


def _replace_same_padding(model: nn.Module) -> None:
    """Replace ``same`` padding of convolutions by numbers: torchao does not support it."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding == "same":
            spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            if not any(span % 2 for span in spans):
                layer.padding = tuple(span // 2 for span in spans)


def x86_quantizer(training: bool, minmax: bool = False, reduce_range: bool = False) -> Any:
    """torchao's quantizer for x86: uint8 activations, int8 weights per channel."""
    x86 = optional_import(f"{PT2E}.quantizer.x86_inductor_quantizer")
    config = x86.get_default_x86_inductor_quantization_config(is_qat=training, reduce_range=reduce_range)
    if minmax:
        observer = optional_import(f"{PT2E}.observer").MinMaxObserver.with_args(eps=2**-12)
        activation = replace(config.input_activation, observer_or_fake_quant_ctr=observer)
        config = replace(config, input_activation=activation, output_activation=activation)
    return x86.X86InductorQuantizer().set_global(config)


def quantize_graph(
    model: nn.Module, example: Tensor, batches: Sequence[Tensor], calibration: str, reduce_range: bool
) -> GraphModule:
    """The network in int8; the ranges of activations are observed on `batches`, by min/max or squared error."""
    graph = capture_graph(eval_copy(model), example, training=False)
    with silence_output(), torch.no_grad():
        prepare = optional_import(f"{PT2E}.quantize_pt2e").prepare_pt2e
        prepared = prepare(graph, x86_quantizer(False, calibration == "minmax", reduce_range))
        for batch in batches:
            prepared(batch)
        return optional_import(f"{PT2E}.quantize_pt2e").convert_pt2e(prepared)


def graph_to_onnx(graph: GraphModule, example: Tensor) -> bytes:
    """Export a converted graph to an ONNX file."""
    with onnx_tempdir(to_onnx(graph, example)) as folder:
        return read_model(folder / "plain.onnx")


# The position of an operator's training flag, which is a constant in a captured graph.
TRAINING_FLAG_ARGUMENTS = {"batch_norm": 5, "dropout": 2, "dropout_": 2, "feature_dropout": 2, "feature_dropout_": 2}
TOLERANCE = 1e-2  # relative to the norm of the logits: batch norm is folded into the weights and divided out again


class QATGraph(nn.Module):
    """The trainable network of quantization-aware training: floats [B, *input_shape] -> [B, num_outputs].

    Parameters and buffers keep their names in the original network, so that masks, optimizer groups and checkpoints
    still apply; those of the observers are added. The mode is applied at each call, since a graph has it in the arguments
    of its operators and Lightning sets `training` without calling ``train()``. Ranges are observed during training only,
    until `freeze`.
    """

    observers_frozen: Tensor

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        # The members of the graph become members of this module; registering the graph would prefix all names.
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
        """Stop observing: scales no longer change, so that the weights converge on one grid."""
        self.observers_frozen.fill_(1)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Observe the ranges of `x` in evaluation mode; the first call gives every observer its shape and first range."""
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
    """A copy of the trained network in int8."""
    copy = deepcopy(network).cpu()
    copy._follow(training=False, observing=False)
    with silence_output():
        return optional_import(f"{PT2E}.quantize_pt2e").convert_pt2e(copy.__dict__["graph"])


def prepare_qat(model: nn.Module, example: Tensor, reduce_range: bool = False) -> QATGraph:
    """A copy of a network on the CPU, prepared for quantization-aware training.

    Raises UserError if it cannot be captured, has nothing to quantize, or if the captured network computes something
    else in evaluation mode, for example because its dropout cannot be switched off.
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
        raise UserError("nothing to quantize: the network has no layer that torchao supports in int8")
    network.apply(fake.disable_fake_quant)
    with torch.no_grad():
        found = network.eval()(example)
    if (found - expected).norm() > TOLERANCE * expected.norm():
        raise UserError("the outputs of the captured network differ from those of the network in evaluation mode")
    network.apply(fake.enable_fake_quant)
    return network.train()


def _batch_norm_literals(graph: GraphModule) -> dict[str, tuple[float, float]]:
    """Momentum and epsilon of each batch norm, by the name of its running mean."""
    return {node.args[3].target: (node.args[6], node.args[7]) for node in _batch_norms(graph)}


def _restore_batch_norm_literals(graph: GraphModule, literals: dict[str, tuple[float, float]]) -> None:
    """Restore momentum and epsilon, which torchao's fusion of convolution and batch norm sets to their defaults."""
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
