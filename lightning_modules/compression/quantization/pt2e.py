"""PyTorch 2 export quantization (torchao): captures networks as graphs and quantizes them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lightning_modules.compression.onnx_model import eval_copy, first_error_line, silence_output, to_onnx
from lightning_modules.compression.optional_import import optional_import
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
