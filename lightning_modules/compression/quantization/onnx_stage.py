"""What all stages share that end in an int8 program."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel, first_error_line, silence_output, strip_metadata
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.errors import UserError


class OnnxStage(Stage):
    """Ends with an `OnnxModel` in the network's place, whose program holds its own int8 weights."""

    kind = "program"

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        """The int8 program of a network. `batches`: floats for calibration, [B, *input_shape] each."""
        raise TypeError(f"{type(self).__name__} makes no program")

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Make and run the program of the untrained network."""
        self.build_network(model, example, [example])

    def build_network(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> OnnxModel:
        """The program as a network. Raises UserError where it cannot be made or run, or has no int8 weight."""
        try:
            program = self.program(model, example.cpu(), batches)
            network = OnnxModel(program)
            with torch.no_grad():
                network(example.cpu())
        except UserError as error:
            raise self.config_error(str(error)) from error
        except Exception as error:  # of five libraries, each with errors of its own
            raise self.config_error(f"the network cannot be quantized: {first_error_line(error)}") from error
        if not count_int8_weights(program):
            raise self.config_error(
                "no weight of the network was quantized: it has no layer that the library knows in int8"
            )
        return network

    def install(self, context: StageContext, network: OnnxModel) -> None:
        """Put the program in the network's place: masks, codebooks and grids of its float weights are over."""
        program = network.bytes()
        context.task.model = network
        context.state.masks, context.state.codebooks, context.state.grids = {}, {}, {}
        context.state.steps.append({"do": "onnx", "bytes": len(program)})
        context.log({"compression/quantized_ops": float(count_quantized_ops(program))})


def count_quantized_ops(program: bytes) -> int:
    """How many nodes of an ONNX file quantize, dequantize or compute in whole numbers."""
    nodes = optional_import("onnx").load_from_string(program).graph.node
    return sum("quantize" in n.op_type.lower() or n.op_type.endswith("Integer") for n in nodes)


def count_int8_weights(program: bytes) -> int:
    """How many matrices and kernels of an ONNX file are stored in 8 bits."""
    onnx = optional_import("onnx")
    eight = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return sum(t.data_type in eight and len(t.dims) > 1 for t in onnx.load_from_string(program).graph.initializer)


def calibration_samples(stage: Stage, context: StageContext, samples: int) -> list[Tensor]:
    """The first `samples` training samples, as the network reads them. Raises UserError where there is none."""
    found: list[Tensor] = []
    left = samples
    for batch in islice(context.batches(), samples):
        if left <= 0:
            break
        found.append(context.preprocess(batch["x"][:left].cpu()).cpu())
        left -= len(found[-1])
    if left == samples:
        raise stage.config_error("the calibration set is empty: the data gives no training sample")
    return found


@contextmanager
def onnx_tempdir(program: bytes) -> Iterator[Path]:
    """A folder with ``plain.onnx``: the program with the shapes that a quantizer must know and its constants folded.

    Nothing is printed meanwhile, and the folder is gone afterwards.
    """
    optional_import("onnxruntime").set_default_logger_severity(3)
    shapes = optional_import("onnxruntime.quantization.shape_inference")
    with TemporaryDirectory(prefix="quantize-") as folder, silence_output():
        shapes.quant_pre_process(optional_import("onnx").load_from_string(program), str(Path(folder) / "plain.onnx"))
        yield Path(folder)


def read_model(path: Path) -> bytes:
    """The program of a file in the workshop."""
    return strip_metadata(optional_import("onnx").load(str(path)))
