"""CPU cores and threads available to a process."""

import os


def available_cores() -> list[int]:
    """Indices of the cores this process may run on: all of the machine, or those a scheduler or sweep pinned it to."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def num_threads(cores: int) -> int:
    """Intra-op threads for a process with this many cores: at least one, at most OMP_NUM_THREADS if it is set."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has one number per nesting level
    return max(1, min(cores, int(limit)) if limit.isdecimal() else cores)
