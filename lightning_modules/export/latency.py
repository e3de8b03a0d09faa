"""Latency percentiles of single calls."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LatencyPercentiles:
    """The median and the 95th percentile over `calls` calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    calls: int


def latency_percentiles(
    candidates: Mapping[str, Callable[[], object]], calls: int = 200, seconds: float = 1.0, warm_up: int = 5
) -> dict[str, LatencyPercentiles]:
    """Time single calls of the candidates in turns, so that other load on the machine affects all of them.

    Args:
        calls: largest number of calls of each candidate; at least 20 are made.
        seconds: time limit for all candidates together.
    """
    for call in candidates.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    for done in range(calls):
        if done >= 20 and time.perf_counter() > end:
            break
        for name, call in candidates.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1000)
    found = {name: np.percentile(ms, (50, 95)) for name, ms in times.items()}
    return {name: LatencyPercentiles(float(p50), float(p95), len(times[name])) for name, (p50, p95) in found.items()}
