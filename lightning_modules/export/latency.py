"""How long a call takes: the middle and the slow end, for one sample and for a batch."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LatencyPercentiles:
    """Milliseconds that half and 95 % of `calls` calls took at most."""

    p50_ms: float
    p95_ms: float
    calls: int


def latency_percentiles(
    candidates: Mapping[str, Callable[[], object]], calls: int = 200, seconds: float = 1.0, warm_up: int = 5
) -> dict[str, LatencyPercentiles]:
    """Time single calls of the candidates in turns, so that a busy machine is busy for all of them.

    Args:
        calls: of each at most; at least 20 are made.
        seconds: for all of them together, after which there are no more.
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
