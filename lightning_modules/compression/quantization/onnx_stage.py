"""Base class of the stages that turn the network into an int8 ONNX model."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lightning_modules.compression import optional_import
from lightning_modules.compression.onnx_model import OnnxModel, first_error_line, silence_output, strip_metadata
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.errors import UserError

VNNI = {"avx512_vnni", "avx_vnni"}  # instructions that add 8-bit products in 32 bits


class OnnxStage(Stage):
    """Replaces the network by an `OnnxModel` with int8 weights.

    Attributes:
        samples: number of training samples for calibration.
        reduce_range: weights of 7 bits, for processors without VNNI.
    """

    kind = "backend"
    samples = 0
    reduce_range = False

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        """The int8 ONNX file of a network. `batches`: floats for calibration, [B, *input_shape] each."""
        raise NotImplementedError

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Quantize and run the untrained network."""
        self.build_network(model, example, [example])

    def build_network(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> OnnxModel:
        """The quantized network. Raises UserError if it cannot be built or run, or has no int8 weight."""
        try:
            network = OnnxModel(self.program(model, example.cpu(), batches))
            with torch.no_grad():
                network(example.cpu())
        except UserError as error:
            raise self.config_error(str(error)) from error
        except Exception as error:  # five libraries are involved, each with its own exceptions
            raise self.config_error(f"the network cannot be quantized: {first_error_line(error)}") from error
        onnx = optional_import("onnx")
        eight = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        weights = onnx.load_from_string(network.bytes()).graph.initializer
        if not any(weight.data_type in eight and len(weight.dims) > 1 for weight in weights):
            raise self.config_error(
                "no weight was quantized: the network has no layer that the library supports in int8"
            )
        return network

    def begin(self, context: StageContext) -> None:
        self.convert(context)

    def convert(self, context: StageContext) -> None:
        """Replace the network; masks, codebooks and grids of its float weights no longer apply."""
        if not self.reduce_range:
            warn_without_vnni(cpu_flags())
        batches = calibration_samples(self, context, self.samples) if self.samples else []
        network = self.build_network(context.model, context.preprocess(context.example), batches)
        context.model = network
        context.state.masks, context.state.codebooks, context.state.grids = {}, {}, {}
        context.state.steps.append({"do": "onnx", "bytes": len(network.program)})
        context.log({"compression/quantized_ops": float(count_quantized_ops(network.bytes()))})


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The flags of an x86 processor; empty for another one, and where Linux does not list them."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((set(line.split()[2:]) for line in lines if line.startswith("flags")), set())


def warn_without_vnni(flags: Collection[str]) -> None:
    """Warn if sums of 8-bit products may saturate: on an x86 processor (with `flags`) without VNNI."""
    if flags and not VNNI.intersection(flags):
        warnings.warn(
            "int8: this processor has no VNNI, so sums of 8-bit products may saturate, which changes scores. Set "
            "reduce_range=true (weights of 7 bits); to export, train with compression=int8_static and this setting",
            stacklevel=2,
        )


def count_quantized_ops(program: bytes) -> int:
    """The number of nodes of an ONNX file that quantize, dequantize or compute with integers."""
    nodes = optional_import("onnx").load_from_string(program).graph.node
    return sum("quantize" in n.op_type.lower() or n.op_type.endswith("Integer") for n in nodes)


def calibration_samples(stage: Stage, context: StageContext, samples: int) -> list[Tensor]:
    """The first `samples` training samples, preprocessed. Raises UserError if there are none."""
    found: list[Tensor] = []
    left = samples
    for batch in islice(context.batches(), samples):
        if left <= 0:
            break
        found.append(context.preprocess(batch["x"][:left].cpu()).cpu())
        left -= len(found[-1])
    if left == samples:
        raise stage.config_error("the calibration set is empty: there are no training samples")
    return found


@contextmanager
def onnx_tempdir(program: bytes) -> Iterator[Path]:
    """A temporary folder with ``plain.onnx``, the model after shape inference and constant folding; output is silenced."""
    optional_import("onnxruntime").set_default_logger_severity(3)
    shapes = optional_import("onnxruntime.quantization.shape_inference")
    with TemporaryDirectory(prefix="quantize-") as folder, silence_output():
        shapes.quant_pre_process(optional_import("onnx").load_from_string(program), str(Path(folder) / "plain.onnx"))
        yield Path(folder)


def read_model(path: Path) -> bytes:
    """Read an ONNX file without debug metadata."""
    return strip_metadata(optional_import("onnx").load(str(path)))
