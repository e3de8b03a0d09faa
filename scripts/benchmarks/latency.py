"""How much faster compressed networks run: one thread, all candidates in turns, against eager and against ONNX Runtime."""

from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, table


def run(repeats: int) -> None:
    """Print the tables; `repeats` times four turns."""
    resnet18(repeats)
    masked(repeats)


def resnet18(repeats: int) -> None:
    """torchvision's ResNet-18 with random weights at 224x224: int8, and half the operations and int8."""
    import torch

    from lightning_modules.compression.profiling import count_macs
    from lightning_modules.task.profiling import single_thread

    x = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    dense, int8, half, half_int8 = (
        _resnet18(x, names) for names in ((), ("int8",), ("channels",), ("channels", "int8"))
    )
    with torch.inference_mode(), single_thread():
        same = (dense(x).argmax(1) == int8(x).argmax(1)).float().mean()
        error = (dense(x) - int8(x)).norm() / dense(x).norm()
        times = _turns(repeats, x[:1], {"eager": dense, "int8": int8, "half": half, "half, int8": half_int8})
    note = f"top-1 of {len(x)} random images agrees in {100 * float(same):.0f} %, relative error {float(error):.3f}"
    rows = [Row("best float32 runtime (ONNX Runtime) / eager", _over(times, "onnxruntime", "eager"), None)]
    rows.append(Row("int8 / eager", _over(times, "int8", "eager"), 1 / 5, note=note))
    rows.append(Row("int8 / best float32 runtime", _over(times, "int8", "onnxruntime"), 1 / 2.5))
    kept = count_macs(half, x[:1]) / count_macs(dense, x[:1])
    rows.append(
        Row("half the operations, int8 / eager", _over(times, "half, int8", "eager"), 1 / 10, note=f"macs x {kept:.2f}")
    )
    table("torchvision resnet18, 3x224x224, batch 1, random weights", rows)


def masked(repeats: int) -> None:
    """Zeros alone: 90 % masked in dense runtimes, and compressed sparse rows of linear layers."""
    import torch
    from torch import nn

    from lightning_modules.task.profiling import single_thread

    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    dense, zeros = _resnet18(x, ()), _resnet18(x, ())
    with torch.no_grad():
        for weight in (w for w in zeros.parameters() if w.ndim > 1):
            weight[weight.abs() < weight.abs().flatten().kthvalue(round(0.9 * weight.numel())).values] = 0
    with torch.inference_mode(), single_thread():
        times = _turns(repeats, x, {"eager": dense, "masked": zeros})
        rows = [
            Row(
                "resnet18, 90 % masked / dense, eager",
                _over(times, "masked", "eager"),
                None,
                note="no faster, as it must be",
            )
        ]
        features = torch.rand(64, 1024, generator=torch.Generator().manual_seed(0))
        for sparsity in (0.90, 0.95, 0.99):
            layer = nn.Linear(1024, 1024)
            weight = layer.weight.detach().clone()
            weight[torch.rand_like(weight) < sparsity] = 0
            rows_of = weight.to_sparse_csr()
            calls: dict[str, Callable[[], Any]] = {
                "dense": lambda w=weight: features @ w.T, "csr": lambda w=rows_of: (w @ features.T).T,
            }  # fmt: skip
            times = _timed(repeats, calls)
            rows.append(
                Row(
                    f"linear 1024x1024, batch 64, {sparsity:.0%} zeros: CSR / dense", _over(times, "csr", "dense"), None
                )
            )
    table("zeros alone", rows)


def _resnet18(x: Any, stages: tuple[str, ...]) -> Any:
    """A random resnet18 after the stages, loaded back from its file."""
    from benchmarks.untrained import compressed_resnet18

    return compressed_resnet18(x, stages)


def _turns(repeats: int, x: Any, networks: dict[str, Any]) -> dict[str, list[float]]:
    """Milliseconds of each network for `x`, turn by turn, and of the first one in ONNX Runtime."""
    from lightning_modules.compression.onnx_model import OnnxModel, to_onnx

    exported = OnnxModel(to_onnx(networks["eager"], x))
    calls: dict[str, Callable[[], Any]] = {"onnxruntime": lambda: exported(x)}
    for name, network in networks.items():
        calls[name] = lambda network=network: network(x)  # type: ignore[misc]
    return _timed(repeats, calls)


def _timed(repeats: int, calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    import time

    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(4 * repeats + 3):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 3:
                times[name].append(1000 * (time.perf_counter() - begin))
    return times


def _over(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [a / b for a, b in zip(times[one], times[other], strict=True)]
