"""Searches for the smallest change of a network that meets a cost budget."""

import bisect
import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.profiling import count_macs, count_params
from lightning_modules.compression.structured.layer_widths import resize_layers
from lightning_modules.config.errors import UserError
from lightning_modules.task.profiling import latency_ms, single_thread

CostFunction = Callable[[Step], float]  # architecture step -> cost after it, relative to the cost before it


def only_budget(stage: str, **ratios: float | None) -> tuple[str, float]:
    """The name and value of the one budget that is given. Raises UserError unless it is exactly one."""
    given = [(name, value) for name, value in ratios.items() if value is not None]
    if len(given) != 1:
        raise UserError(f"compression: {stage} needs exactly one of {', '.join(ratios)}")
    return given[0]


def relative_cost(what: str, model: nn.Module, meta_model: nn.Module, example: Tensor) -> CostFunction:
    """The function that returns the ratio of ``macs``, ``params`` or ``latency`` after an architecture step.

    Args:
        model: with weights; only ``latency`` needs them.
        meta_model: the same network on the ``meta`` device.
        example: floats [1, *input_shape].
    """
    if what == "latency":
        return lambda step: _latency_ratio(model, step, example)
    count = cost_counter(what)
    whole = count(meta_model, example)
    return lambda step: count(resize_layers(copy.deepcopy(meta_model), step), example) / whole


def cost_counter(what: str) -> Callable[[nn.Module, Tensor], int]:
    """The function (network, example) -> number of ``macs`` or ``params``."""
    return count_macs if what == "macs" else (lambda network, _: count_params(network))


def search_budget(cost: Callable[[int], float], last: int, target: float) -> tuple[int, float]:
    """The smallest index in 1 … `last` with a cost of at most `target`, and its cost; `last` if there is none.

    `cost` falls with the index. All ranks get the result of rank 0, since measured times differ between ranks.
    """
    cost = functools.cache(cost)
    index = last
    if cost(last) <= target:
        index = 1 + bisect.bisect_left(range(1, last), True, key=lambda i: cost(i) <= target)
    answer: list[Any] = [index, cost(index)]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(answer, src=0)
    return answer[0], answer[1]


def _latency_ratio(model: nn.Module, step: Step, example: Tensor) -> float:
    """Ratio of the median latencies of one sample, on the CPU with one thread."""
    dense = copy.deepcopy(model).cpu()
    small = resize_layers(copy.deepcopy(dense), step)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.02)  # zeros and denormal numbers would distort the timing
    with single_thread():
        before = latency_ms(dense, example.cpu())
        return 2 * latency_ms(small, example.cpu()) / (before + latency_ms(dense, example.cpu()))
