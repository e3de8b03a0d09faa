"""Export formats: a task traced from raw samples to scores, written as ONNX, torch archive (pt2) or AOTInductor library."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_modules.compat.torch import compile_aoti, require_cpp_compiler
from lightning_modules.compression import optional_import
from lightning_modules.compression.onnx_model import (
    OnnxModel,
    eval_copy,
    first_error_line,
    silence_output,
    strip_metadata,
)
from lightning_modules.config.errors import UserError
from lightning_modules.run.named_forward import NamedForward
from lightning_modules.task.supervised import Supervised

if TYPE_CHECKING:
    from onnx import ModelProto

FILE_NAMES = {"onnx": "model.onnx", "pt2": "model.pt2", "aoti": "model.aoti.pt2"}


def write_format(form: str, program: torch.export.ExportedProgram, path: Path, **names: list[str]) -> None:
    """Write an exported program. Raises UserError if the format's library rejects it, or if a compiler is missing.

    `names`: of an ONNX file, see `onnx_bytes`.
    """
    try:
        if form == "aoti":
            require_cpp_compiler()
    except Exception as error:
        raise UserError(
            "format=aoti compiles C++, and there is no compiler here: install g++ or set CXX, or choose format=onnx or pt2"
        ) from error
    try:
        with silence_output(), torch.no_grad():
            if form == "onnx":
                path.write_bytes(onnx_bytes(program, **names))
            elif form == "pt2":
                torch.export.save(program, path)
            else:
                compile_aoti(program, str(path))
    except UserError:
        raise
    except Exception as error:  # exporters raise classes of many packages
        raise UserError(f"format={form}: the network cannot be exported: {first_error_line(error)}") from error


def onnx_bytes(
    program: torch.export.ExportedProgram, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("scores",)
) -> bytes:
    """The ONNX file with its weights, and these names of its inputs and outputs."""
    optional_import("onnxscript")
    with silence_output(), torch.no_grad():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, external_data=False, input_names=inputs, output_names=outputs
        )
    assert exported is not None
    return strip_metadata(exported.model_proto)


# --- tracing a task ------------------------------------------------------------------------------------------------
class ScoringModel(nn.Module):
    """Raw samples [B, *input_shape] -> probabilities or values, like the served model."""

    def __init__(self, task: Supervised) -> None:
        super().__init__()
        self.preprocess, self.model, self.scores = task.preprocess, task.model, task.scores
        self.variable_dims: Sequence[int] = getattr(task, "variable_dims", ())

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.model(self.preprocess(x)))


def scoring_model(task: Supervised) -> nn.Module:
    """What is exported of a task: its own ``export_model()``, or its scores."""
    own: Callable[[], nn.Module] | None = getattr(task, "export_model", None)
    return (own() if own else ScoringModel(task)).eval()


class ScoreHead(nn.Module):
    """Outputs [B, num_outputs] -> probabilities or values."""

    def __init__(self, task: Supervised) -> None:
        super().__init__()
        self.scores = task.scores

    def forward(self, outputs: Tensor) -> Tensor:
        return self.scores(outputs).clone()  # a graph that returns its input would have no nodes


def trace(module: nn.Module, *inputs: Tensor) -> torch.export.ExportedProgram:
    """The module in evaluation mode on the CPU as an exported program with dynamic batch size and `variable_dims`.

    Args:
        inputs: [N, …] each, with N >= 2: a batch size of 1 would be exported as a constant.

    Raises UserError with the exporter's reason.
    """
    try:
        with silence_output(), torch.no_grad():
            copy = eval_copy(module)
            dims = (0, *getattr(module, "variable_dims", ()))
            shapes: Any = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for _ in inputs)
            shapes = (shapes,) if isinstance(module, NamedForward) else shapes  # its forward takes *inputs
            return torch.export.export(copy, tuple(x.cpu() for x in inputs), dynamic_shapes=shapes)
    except Exception as error:  # exporters raise exceptions of many packages
        raise UserError(f"the network cannot be exported: {first_error_line(error)}") from error


# --- an int8 ONNX model, with preprocessing and scores in one file -------------------------------------------------
def fuse_onnx(task: Supervised, x: Tensor) -> bytes:
    """The ONNX file, from raw samples ``x`` to ``scores``, of a task whose network is an `OnnxModel`.

    Args:
        x: raw samples [N, *input_shape] with N >= 2.

    Raises UserError if a part cannot be exported.
    """
    assert isinstance(task.model, OnnxModel)
    optional_import("onnx")
    onnx = optional_import("onnx.compose")
    model = optional_import("onnx").load_from_string(task.model.bytes())
    floats = task.preprocess(x)
    outputs = task.model(floats)
    if not isinstance(task.preprocess, nn.Identity):
        model = _connect(onnx, _to_onnx_like(task.preprocess, x, model), model, "before")
    model = _connect(onnx, model, _to_onnx_like(ScoreHead(task), outputs, model), "network")
    _rename_input_output(model)
    return bytes(model.SerializeToString())


def _to_onnx_like(module: nn.Module, x: Tensor, like: "ModelProto") -> "ModelProto":
    """Export the module with the operator set and file version of `like`."""
    part = optional_import("onnx").load_from_string(onnx_bytes(trace(module, x)))
    versions = [next(o.version for o in m.opset_import if o.domain in ("", "ai.onnx")) for m in (part, like)]
    if versions[0] != versions[1]:
        part = optional_import("onnx.version_converter").convert_version(part, versions[1])
    part.ir_version = like.ir_version
    return part


def _connect(compose: ModuleType, first: "ModelProto", second: "ModelProto", prefix: str) -> "ModelProto":
    first, second = compose.add_prefix(first, f"{prefix}/"), compose.add_prefix(second, f"{prefix}_then/")
    joint = [(first.graph.output[0].name, second.graph.input[0].name)]
    return compose.merge_models(first, second, io_map=joint)


def _rename_input_output(model: "ModelProto") -> None:
    """Rename the input to ``x``, the output to ``scores``, and their dynamic dimension to ``batch``."""
    for value, name in ((model.graph.input[0], "x"), (model.graph.output[0], "scores")):
        for node in model.graph.node:
            node.input[:] = [name if i == value.name else i for i in node.input]
            node.output[:] = [name if o == value.name else o for o in node.output]
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
