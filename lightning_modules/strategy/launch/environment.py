"""What a process inherits: the variables by which ranks find each other, and the CPU cores it may use."""

import contextlib
import os
from collections.abc import Iterator

RANK_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE",
                  "TORCHELASTIC_USE_AGENT_STORE")  # fmt: skip


@contextlib.contextmanager
def restore_environment() -> Iterator[None]:
    """Restore the variables that Lightning sets and leaves; otherwise the next run of this process would be a rank of the last.

    Lightning also sets OMP_NUM_THREADS when it starts several processes.
    """
    before = {name: os.environ.get(name) for name in (*RANK_VARIABLES, "OMP_NUM_THREADS")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def available_cores() -> list[int]:
    """Indices of the cores this process may run on: all of the machine, or those a scheduler or sweep pinned it to."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def num_threads(cores: int) -> int:
    """Intra-op threads for a process with this many cores: at least one, at most OMP_NUM_THREADS if it is set."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has one number per nesting level
    return max(1, min(cores, int(limit)) if limit.isdecimal() else cores)
