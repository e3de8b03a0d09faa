"""Calibration: the range of each activation from samples, by min/max, percentile, entropy or squared error."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lightning_modules.compression.optional_import import optional_import

Method = Literal["minmax", "percentile", "entropy", "mse"]
SHRINKS = np.linspace(1.0, 0.2, 81)  # fractions of the range that the search for the smallest error tries
LEVELS = 255  # steps of uint8


def activation_ranges(path: Path, batches: Iterable[Tensor], method: Method, percentile: float) -> Any:
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


def min_mse_range(counts: Any, edges: Any, low: float, high: float) -> tuple[float, float]:
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

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._left = [inputs]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None
