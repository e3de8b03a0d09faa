"""Joins preprocessing, a network that is already an ONNX model, and the score function into one ONNX file."""

from typing import Any

from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.export.formats import onnx_bytes
from lightning_modules.export.traced_task import ScoreHead, trace
from lightning_modules.task.supervised import Supervised


def fuse_onnx(task: Supervised, x: Tensor) -> bytes:
    """The ONNX file, from raw samples ``x`` to ``scores``, of a task whose network is an `OnnxModel`.

    Args:
        x: raw samples [N, *input_shape] with N >= 2.

    Raises UserError if a part cannot be exported.
    """
    assert isinstance(task.model, OnnxModel)
    optional_import("onnx")
    onnx: Any = optional_import("onnx.compose")
    model = optional_import("onnx").load_from_string(task.model.bytes())
    floats = task.preprocess(x)
    outputs = task.model(floats)
    if not isinstance(task.preprocess, nn.Identity):
        model = _connect(onnx, _to_onnx_like(task.preprocess, x, model), model, "before")
    model = _connect(onnx, model, _to_onnx_like(ScoreHead(task), outputs, model), "network")
    _rename_input_output(model)
    return bytes(model.SerializeToString())


def _to_onnx_like(module: nn.Module, x: Tensor, like: Any) -> Any:
    """Export the module with the operator set and file version of `like`."""
    part = optional_import("onnx").load_from_string(onnx_bytes(trace(module, x)))
    versions = [next(o.version for o in m.opset_import if o.domain in ("", "ai.onnx")) for m in (part, like)]
    if versions[0] != versions[1]:
        part = optional_import("onnx.version_converter").convert_version(part, versions[1])
    part.ir_version = like.ir_version
    return part


def _connect(compose: Any, first: Any, second: Any, prefix: str) -> Any:
    first, second = compose.add_prefix(first, f"{prefix}/"), compose.add_prefix(second, f"{prefix}_then/")
    joint = [(first.graph.output[0].name, second.graph.input[0].name)]
    return compose.merge_models(first, second, io_map=joint)


def _rename_input_output(model: Any) -> None:
    """Rename the input to ``x``, the output to ``scores``, and their dynamic dimension to ``batch``."""
    for value, name in ((model.graph.input[0], "x"), (model.graph.output[0], "scores")):
        for node in model.graph.node:
            node.input[:] = [name if i == value.name else i for i in node.input]
            node.output[:] = [name if o == value.name else o for o in node.output]
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
