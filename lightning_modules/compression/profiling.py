"""Profiles networks: parameters, MACs, peak memory, and latency beside another network in the same process."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.compression.macs import count_macs, count_nonzero, count_params
from lightning_modules.config.errors import UserError
from lightning_modules.task.profiling import model_size, single_thread

_MIN_ROUNDS, _SECONDS_EACH = 30, 2.0  # least number of rounds, and seconds for each candidate after which timing stops
_MIN_TIMING_SECONDS = 0.002  # shortest duration of one timing: shorter calls are repeated


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median of `rounds` timings, and their quartiles."""

    median_ms: float
    low_ms: float
    high_ms: float
    rounds: int


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], seconds: float = _SECONDS_EACH
) -> dict[str, Timing]:
    """Time the candidates in turns, on one thread, so that other load on the machine affects all of them."""
    with single_thread():
        repeats = {name: _repeats(call) for name, call in candidates.items()}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        until = time.perf_counter() + seconds * len(candidates)
        while len(times[next(iter(times))]) < _MIN_ROUNDS or time.perf_counter() < until:
            for name, call in candidates.items():
                times[name].append(_time_ms(call, repeats[name]))
            if len(times[next(iter(times))]) >= 10 * _MIN_ROUNDS:
                break
    return {name: _quartiles(values) for name, values in times.items()}


def _repeats(call: Callable[[], object]) -> int:
    for _ in range(3):
        call()
    return max(1, round(_MIN_TIMING_SECONDS / max(_time_ms(call, 1), 1e-7)))


def _time_ms(call: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats * 1000


def _quartiles(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high, len(values))


def is_onnx_model(model: nn.Module) -> bool:
    """Whether the network runs in ONNX Runtime and no longer consists of torch layers."""
    from lightning_modules.compression.onnx_model import OnnxModel

    return isinstance(model, OnnxModel)


def runtime_calls(
    side: str, model: nn.Module, x: Tensor, runtimes: tuple[str, ...]
) -> dict[str, Callable[[], object] | str]:
    """A call of the network for each runtime, by ``<side>/<runtime>``, or the reason why it does not run there.

    An ONNX model runs in ONNX Runtime only. `x`: floats [B, *input_shape].
    """
    from lightning_modules.compression.onnx_model import OnnxModel, to_onnx

    model.eval()
    if is_onnx_model(model):
        return {f"{side}/onnxruntime": lambda: model(x)}
    found: dict[str, Callable[[], object] | str] = {}
    if "eager" in runtimes:
        found[f"{side}/eager"] = lambda: model(x)
    if "onnxruntime" in runtimes:
        try:
            exported = OnnxModel(to_onnx(model, x))
            exported(x)
            found[f"{side}/onnxruntime"] = lambda: exported(x)
        except UserError as error:  # no kernel for these types, or the exporter does not support an operator
            found[f"{side}/onnxruntime"] = str(error).splitlines()[0]
    return found


def measure_latencies(
    dense: nn.Module, compressed: nn.Module, x: Tensor, runtimes: tuple[str, ...]
) -> dict[str, Timing | str]:
    """Latency of both networks in each runtime, by ``dense/<runtime>`` and ``compressed/<runtime>``, or the reason why a
    network does not run there.
    """
    with torch.inference_mode(), single_thread():
        both = {**runtime_calls("dense", dense, x, runtimes), **runtime_calls("compressed", compressed, x, runtimes)}
        times = time_interleaved({name: call for name, call in both.items() if not isinstance(call, str)})
    return {**{name: call for name, call in both.items() if isinstance(call, str)}, **times}


def measure_costs(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Parameters, nonzero parameters, MACs and peak memory of one call with `x`.

    Empty for an ONNX model, which has the operations of the network it was made from.
    """
    if is_onnx_model(model):
        return {}
    return {
        "params": float(count_params(model)),
        "nonzero": float(count_nonzero(model)),
        "macs": float(count_macs(model, x[:1])),
        "peak_memory_bytes": float(peak_memory_bytes(model, x[:1])),
    }


def peak_memory_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of the weights plus the largest amount that torch's allocator holds during one call."""
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it warns on stderr that there is no GPU
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model.eval()(x)
    alive = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak + int(model_size(model)["model/size_bytes"])
