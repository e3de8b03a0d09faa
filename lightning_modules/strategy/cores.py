"""The cores that a process may use."""

import os


def allowed_cores() -> list[int]:
    """Their numbers: all of the machine, or those that a scheduler or a sweep has left to this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
