"""Networks as ONNX models: export, and a module that runs one in ONNX Runtime on the CPU."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.compat.torch import tensor_version
from lightning_modules.compression import optional_import
from lightning_modules.compression.compressed_state import Step
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession


class OnnxModel(nn.Module):
    """Floats [B, *input_shape] -> float32 [B, num_outputs], by ONNX Runtime: forward only, on the CPU, no gradients.

    Its only state is the buffer ``program``, the bytes of the ONNX file, so a state dict holds all of it. The session
    is created at the first call, once for each process, program and number of threads (``torch.get_num_threads()``); it
    is neither copied nor pickled.
    """

    program: Tensor

    def __init__(self, program: bytes) -> None:
        super().__init__()
        self.register_buffer("program", torch.frombuffer(bytearray(program), dtype=torch.uint8))
        self._session: tuple[tuple[int, ...], InferenceSession] | None = None

    def forward(self, x: Tensor) -> Tensor:
        session = self._current_session()
        samples = x.detach().to("cpu", torch.float32).contiguous().numpy()
        [logits] = session.run(None, {session.get_inputs()[0].name: samples})
        return torch.from_numpy(logits).to(x.device)

    def _current_session(self) -> "InferenceSession":
        version = (
            0 if self.program.is_inference() else tensor_version(self.program)
        )  # grows where a state dict is copied in
        key = (os.getpid(), self.program.data_ptr(), version, torch.get_num_threads())
        if self._session is None or self._session[0] != key:
            self._session = (key, inference_session(self.bytes()))
        return self._session[1]

    def bytes(self) -> bytes:
        """The ONNX file."""
        return self.program.cpu().numpy().tobytes()

    def __getstate__(self) -> PlainDict:
        return {**self.__dict__, "_session": None}


def restore(model: nn.Module, step: Step, example: Tensor) -> nn.Module:
    """An empty `OnnxModel` of the recorded size; the ONNX file itself is loaded with the weights."""
    return OnnxModel(bytes(int(step["bytes"])))


def inference_session(program: bytes) -> "InferenceSession":
    """A CPU inference session with as many threads as torch uses. Raises UserError with ONNX Runtime's reason."""
    runtime = optional_import("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception classes have no common base
        raise UserError(f"ONNX Runtime cannot run the network: {first_error_line(error)}") from error


def to_onnx(model: nn.Module, example: Tensor) -> bytes:
    """Export a copy of the network, in evaluation mode, to an ONNX file with its weights and a dynamic batch size.

    Stack traces, which contain local paths, are removed.

    Args:
        example: floats [N, *input_shape].

    Raises UserError with the exporter's reason.
    """
    optional_import("onnxscript")
    copy = eval_copy(model)
    sample = example.detach().cpu().float()
    sample = torch.cat([sample, sample])[: max(2, len(sample))]  # a batch size of 1 would be exported as a constant
    try:
        with silence_output(), torch.no_grad():
            exported = torch.onnx.export(
                copy, (sample,), dynamo=True, verbose=False, external_data=False,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )  # fmt: skip
            assert exported is not None
            return strip_metadata(exported.model_proto)
    except Exception as error:
        raise UserError(f"the network cannot be exported to ONNX: {first_error_line(error)}") from error


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode; an exported graph has no modes."""
    copy = deepcopy(model).cpu()
    return copy if isinstance(copy, torch.fx.GraphModule) else copy.eval()


def strip_metadata(model: "ModelProto") -> bytes:
    """Serialize an ``onnx.ModelProto`` without doc strings and debug metadata."""
    graph = model.graph
    for part in (model, graph, *model.functions, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del graph.value_info[:]  # shapes between the layers: ONNX Runtime infers them
    return model.SerializeToString()


def first_error_line(error: BaseException) -> str:
    """Class and first message line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


@contextmanager
def silence_output() -> Iterator[None]:
    """Suppress what exporters and quantizers print, warn and log."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
