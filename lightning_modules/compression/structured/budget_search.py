"""As much of a network as a budget allows: the search over how much is removed."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.compression.macs import count_macs, count_params
from lightning_modules.compression.structured.layer_widths import resize_layers
from lightning_modules.task.profiling import latency_ms, single_thread

CostFunction = Callable[[dict[str, Any]], float]  # a step -> what the network costs after it, over what it costs now


def relative_cost(what: str, model: nn.Module, meta_model: nn.Module, example: Tensor) -> CostFunction:
    """How ``macs``, ``params`` or ``latency`` of `model` go down.

    Args:
        model: with its numbers; only ``latency`` needs them.
        shell: the same on ``meta``.
        example: floats [1, *input_shape].
    """
    if what == "latency":
        return lambda step: _latency_ratio(model, step, example)
    count = cost_counter(what)
    whole = count(meta_model, example)
    return lambda step: count(resize_layers(copy.deepcopy(meta_model), step), example) / whole


def cost_counter(what: str) -> Callable[[nn.Module, Tensor], int]:
    """The function that counts ``macs`` or ``params`` of (network, example)."""
    return count_macs if what == "macs" else (lambda network, _: count_params(network))


def search_budget(cost: Callable[[int], float], last: int, target: float) -> tuple[int, float]:
    """The least index in 1 … `last` whose cost is at most `target`, and its cost; `last` where none is.

    `cost` falls with the index. All processes of a run get what the first one found: times differ between them.
    """
    low, high, reached = 1, last, cost(last)
    while reached <= target and low < high:
        middle = (low + high) // 2
        if (found := cost(middle)) <= target:
            high, reached = middle, found
        else:
            low = middle + 1
    answer: list[Any] = [high, reached]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(answer, src=0)
    return answer[0], answer[1]


def _latency_ratio(model: nn.Module, step: dict[str, Any], example: Tensor) -> float:
    """Median times of one sample, measured one after the other, on the CPU with one thread."""
    dense = copy.deepcopy(model).cpu()
    small = resize_layers(copy.deepcopy(dense), step)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.02)  # neither zeros nor denormal numbers: both take times of their own
    with single_thread():
        before = latency_ms(dense, example.cpu())
        return 2 * latency_ms(small, example.cpu()) / (before + latency_ms(dense, example.cpu()))
