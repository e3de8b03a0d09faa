"""Dynamic int8 quantization: int8 weights, and activations quantized by the range of each batch."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.compression.onnx_model import to_onnx
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.quantization.onnx_stage import OnnxStage, onnx_tempdir, read_model
from lightning_modules.compression.stage import StageContext


class DynamicInt8(OnnxStage):
    """Quantizes linear layers and convolutions without calibration, for ONNX Runtime.

    By rounding, the logits of a sample depend on the other samples of its batch. The matrices of a GRU stay float:
    ONNX Runtime has no int8 GRU.
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
