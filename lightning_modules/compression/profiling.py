"""Profiles networks: parameters, multiply-accumulates (MACs), peak memory, and latency beside another network."""

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.task.profiling import model_size, single_thread


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one sample: half of the FLOPs that torch's counter reports.

    Matrix products, convolutions, attention and recurrent layers count; biases, norms, pooling and activations do not.
    If possible the network runs on the ``meta`` device: nothing is computed and no layer is fused. An ONNX model
    counts as 0.

    Args:
        example: floats [N, *input_shape] as the network reads them; the first is used.
    """
    one = example[:1]
    try:
        return _count(meta_copy(model), one.to("meta"))
    except (RuntimeError, NotImplementedError, TypeError):  # it depends on values, or is not torch code
        return _count(model, one)


def _count(model: nn.Module, example: Tensor) -> int:
    training = model.training
    model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused layers and attention would not be counted
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(training)
    return int(counter.get_total_flops()) // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_nonzero(model: nn.Module) -> int:
    """Number of nonzero parameters."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with parameters and buffers on the ``meta`` device; all parameters require gradients."""
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = _to_meta(tensor)
    return copy.deepcopy(model, memo).eval()


def _to_meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    floats = empty.is_floating_point() or empty.is_complex()
    return nn.Parameter(empty, requires_grad=floats) if isinstance(tensor, nn.Parameter) else empty


_MIN_ROUNDS, _MAX_ROUNDS = 30, 300


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over `rounds` timings: the median, the quartiles and the 95th percentile."""

    median_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    rounds: int


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], seconds: float = 2.0, min_timing_s: float = 0.002
) -> dict[str, Timing]:
    """Time the candidates in turns, on one thread, so that other load on the machine affects all of them.

    Args:
        seconds: for each candidate, after which timing stops; 30 to 300 rounds are made.
        min_timing_s: shortest duration of one timing: shorter calls are repeated; 0: each call is a timing.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with single_thread():
        for call in candidates.values():  # warm-up
            for _ in range(3):
                call()
        repeats = {n: max(1, round(min_timing_s / max(_time_s(call, 1), 1e-10))) for n, call in candidates.items()}
        until = time.perf_counter() + seconds * len(candidates)
        for done in range(_MAX_ROUNDS):
            if done >= _MIN_ROUNDS and time.perf_counter() >= until:
                break
            for name, call in candidates.items():
                times[name].append(_time_s(call, repeats[name]))
    return {name: _summarize(values) for name, values in times.items()}


def _time_s(call: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def _summarize(seconds: list[float]) -> Timing:
    low, median, high, p95 = (float(value) for value in np.percentile(seconds, (25, 50, 75, 95)) * 1000)
    return Timing(median, low, high, p95, len(seconds))


def is_onnx_model(model: nn.Module) -> bool:
    """Whether the network runs in ONNX Runtime and no longer consists of torch layers."""
    from lightning_modules.compression.onnx_model import OnnxModel

    return isinstance(model, OnnxModel)


def runtime_calls(
    model: nn.Module, x: Tensor, runtimes: tuple[str, ...]
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """A call of the network for each runtime, and the reasons why it does not run in the others.

    An ONNX model runs in ONNX Runtime only. `x`: floats [B, *input_shape].
    """
    from lightning_modules.compression.onnx_model import OnnxModel, to_onnx

    model.eval()
    if is_onnx_model(model):
        return {"onnxruntime": lambda: model(x)}, {}
    calls: dict[str, Callable[[], object]] = {"eager": lambda: model(x)} if "eager" in runtimes else {}
    if "onnxruntime" in runtimes:
        try:
            exported = OnnxModel(to_onnx(model, x))
            exported(x)
            calls["onnxruntime"] = lambda: exported(x)
        except UserError as error:  # no kernel for these types, or the exporter does not support an operator
            return calls, {"onnxruntime": first_line(error)}
    return calls, {}


def measure_latencies(
    dense: nn.Module, compressed: nn.Module, x: Tensor, runtimes: tuple[str, ...]
) -> tuple[dict[str, Timing], dict[str, Timing], dict[str, str]]:
    """Latencies of both networks by runtime, and why one does not run in a runtime, by ``<dense or compressed>/<runtime>``."""
    with torch.inference_mode(), single_thread():
        sides = {"dense": runtime_calls(dense, x, runtimes), "compressed": runtime_calls(compressed, x, runtimes)}
        calls = {f"{side}/{name}": call for side, (known, _) in sides.items() for name, call in known.items()}
        times = time_interleaved(calls)
    missing = {f"{side}/{name}": why for side, (_, absent) in sides.items() for name, why in absent.items()}
    own, theirs = ({name: times[f"{side}/{name}"] for name in sides[side][0]} for side in ("dense", "compressed"))
    return own, theirs, missing


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
