"""Static and dynamic int8 post-training quantization: weights and activations in 8 bits."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Le
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import to_onnx
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.quantization.calibration import Method, activation_ranges
from lightning_modules.compression.quantization.onnx_stage import (
    OnnxStage,
    calibration_samples,
    onnx_tempdir,
    read_model,
)
from lightning_modules.compression.quantization.pt2e import graph_to_onnx, quantize_graph
from lightning_modules.compression.stage import Settings, StageContext
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError

Backend = Literal["onnxruntime", "pt2e"]
PT2E_METHODS = ("minmax", "mse")


class StaticInt8(OnnxStage):
    """Post-training quantization for ONNX Runtime: uint8 activations, int8 weights with a scale per channel.

    Args:
        backend: ``onnxruntime`` quantizes every operator it supports in int8; ``pt2e`` (torchao, X86 quantizer) keeps
            operands of additions as floats, which is more accurate and slower.
        calibration: minmax, percentile, entropy or mse, see `activation_ranges`; pt2e supports minmax and mse.
        samples: number of training samples for calibration.
        percentile: for calibration=percentile.
        reduce_range: 7 bits, for processors without VNNI, where sums of 8-bit products may saturate.
    """

    @bounded
    def __init__(
        self,
        backend: Backend = "onnxruntime",
        calibration: Method = "minmax",
        samples: Count = 512,
        percentile: Annotated[float, Gt(50), Le(100)] = 99.99,
        reduce_range: bool = False,
    ) -> None:
        super().__init__("after")
        if backend == "pt2e" and calibration not in PT2E_METHODS:
            raise UserError(
                f"compression: calibration={calibration}: backend=pt2e supports {' and '.join(PT2E_METHODS)}"
            )
        self.backend, self.calibration, self.samples = backend, calibration, samples
        self.percentile, self.reduce_range = percentile, reduce_range

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        if self.backend == "pt2e":
            return graph_to_onnx(quantize_graph(model, example, batches, self.calibration, self.reduce_range), example)
        return quantize_static(
            to_onnx(model, example), batches, self.calibration, self.percentile, reduce_range=self.reduce_range
        )

    def begin(self, context: StageContext) -> None:
        batches = calibration_samples(self, context, self.samples)
        self.install(context, self.build_network(context.model, context.preprocess(context.example), batches))

    def settings(self) -> Settings:
        return {"backend": self.backend, "calibration": self.calibration, "samples": self.samples}


def quantize_static(
    program: bytes, batches: Sequence[Tensor], method: Method, percentile: float = 99.99, reduce_range: bool = False
) -> bytes:
    """Quantize an ONNX file with QuantizeLinear and DequantizeLinear around the operators that run in int8."""
    quantization = optional_import("onnxruntime.quantization")
    calibrate = optional_import("onnxruntime.quantization.calibrate")
    with onnx_tempdir(program) as folder:
        ranges = activation_ranges(folder / "plain.onnx", batches, method, percentile)
        calibrate.save_tensors_data(ranges, folder / "ranges.json")  # the only way to pass our own ranges
        quantization.quantize_static(
            str(folder / "plain.onnx"), str(folder / "int8.onnx"), None,
            quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, per_channel=True, reduce_range=reduce_range,
            calibrate_method=calibrate.CalibrationMethod.MinMax, calibration_cache_path=folder / "ranges.json",
        )  # fmt: skip
        return read_model(folder / "int8.onnx")


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
