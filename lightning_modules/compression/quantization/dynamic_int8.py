"""Dynamic int8: int8 weights, and activations that are quantized by each batch's own range."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.compression.onnx_model import to_onnx
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.quantization.onnx_stage import OnnxStage, onnx_tempdir, read_model
from lightning_modules.compression.stage import StageContext


class DynamicInt8(OnnxStage):
    """Quantizes linear layers and convolutions without calibration, to a program that ONNX Runtime runs.

    The logits of a sample depend on the batch it comes in, by rounding. A GRU's own matrices stay floats: ONNX Runtime
    has no int8 GRU.
    """

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        quantization = optional_import("onnxruntime.quantization")
        with onnx_tempdir(to_onnx(model, example)) as folder:
            quantization.quantize_dynamic(
                str(folder / "plain.onnx"), str(folder / "int8.onnx"),
                per_channel=True, weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
            return read_model(folder / "int8.onnx")

    def begin(self, context: StageContext) -> None:
        self.install(context, self.build_network(context.model, context.preprocess(context.example), []))
