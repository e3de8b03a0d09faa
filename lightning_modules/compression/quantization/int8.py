"""Static and dynamic int8 post-training quantization: weights and activations in 8 bits, and calibration of ranges."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Le
from torch import Tensor, nn

from lightning_modules.compression import optional_import
from lightning_modules.compression.onnx_model import to_onnx
from lightning_modules.compression.quantization.onnx_stage import OnnxStage, onnx_tempdir, read_model
from lightning_modules.compression.quantization.pt2e import graph_to_onnx, quantize_graph
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict

Backend = Literal["onnxruntime", "pt2e"]
Method = Literal["minmax", "percentile", "entropy", "mse"]
PT2E_METHODS = ("minmax", "mse")
SHRINKS = np.linspace(1.0, 0.2, 81)  # fractions of the range that the search for the smallest error tries
LEVELS = 255  # steps of uint8


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

    reported = ("backend", "calibration", "samples")

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
    ONNX Runtime has no int8 GRU. `reduce_range`: see `StaticInt8`.
    """

    def __init__(self, reduce_range: bool = False) -> None:
        super().__init__("after")
        self.reduce_range = reduce_range

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        quantization = optional_import("onnxruntime.quantization")
        with onnx_tempdir(to_onnx(model, example)) as folder:
            quantization.quantize_dynamic(
                str(folder / "plain.onnx"), str(folder / "int8.onnx"),
                per_channel=True, weight_type=quantization.QuantType.QInt8, reduce_range=self.reduce_range,
            )  # fmt: skip
            return read_model(folder / "int8.onnx")


# --- calibration: the range of each activation from samples ------------------------------------------------------------
def activation_ranges(path: Path, batches: Iterable[Tensor], method: Method, percentile: float) -> object:
    """ONNX Runtime's ``TensorsData`` for the activations of an ONNX file, collected batch by batch to save memory.

    Args:
        method: ``minmax``; ``percentile``: values beyond it, on both sides together, are clipped; ``entropy``: smallest
            divergence (Migacz 2017, "8-bit inference with TensorRT"); ``mse``: smallest squared error, see
            `min_mse_range`. The first three are ONNX Runtime's.
    """
    calibrate = optional_import("onnxruntime.quantization.calibrate")
    known = calibrate.CalibrationMethod
    calibrator = calibrate.create_calibrator(
        str(path),
        augmented_model_path=str(path.with_suffix(".augmented.onnx")),
        calibrate_method={"minmax": known.MinMax, "entropy": known.Entropy}.get(method, known.Percentile),
        extra_options={"symmetric": False, "percentile": percentile},
    )
    name = calibrator.infer_session.get_inputs()[0].name
    for batch in batches:
        calibrator.collect_data(_SingleBatchReader({name: batch.numpy()}))
    if method == "mse":
        histograms = calibrator.collector.histogram_dict
        found = {key: min_mse_range(*histogram[:4]) for key, histogram in histograms.items()}
    else:
        found = {key: data.range_value for key, data in calibrator.compute_data().items()}
    ranges = {key: tuple(np.array(end, np.float32) for end in ends) for key, ends in found.items()}
    return calibrate.TensorsData(known.MinMax, ranges)


def min_mse_range(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """[low, high] scaled towards 0 such that rounding to 256 levels has the smallest squared error.

    Args:
        counts, edges: a histogram, [n] and [n + 1].
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    values = (edges[:-1] + edges[1:]) / 2

    def error(shrink: float) -> float:
        step = max((high - low) * shrink / LEVELS, 1e-30)
        rounded = np.clip(np.round((values - low * shrink) / step), 0, LEVELS) * step + low * shrink
        return float((counts * np.square(values - rounded)).sum())

    best = min(SHRINKS, key=error)
    return low * best, high * best


class _SingleBatchReader:
    """A data reader with one batch, in the form that ONNX Runtime's calibrators expect."""

    def __init__(self, inputs: PlainDict) -> None:
        self._left = [inputs]

    def get_next(self) -> PlainDict | None:
        return self._left.pop() if self._left else None
