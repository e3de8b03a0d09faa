"""The cores and threads that a process may use."""

import os


def available_cores() -> list[int]:
    """Their numbers: all of the machine, or those that a scheduler or a sweep has left to this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def num_threads(cores: int) -> int:
    """Intra-op threads of a process that has so many cores: at least one, and at most OMP_NUM_THREADS where it is set."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list gives one number per nesting level
    return max(1, min(cores, int(limit)) if limit.isdecimal() else cores)
