"""What Lightning writes into the environment to find its ranks, and leaves there."""

import contextlib
import os
from collections.abc import Iterator

RANK_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE",
         "TORCHELASTIC_USE_AGENT_STORE")  # fmt: skip


@contextlib.contextmanager
def restore_environment() -> Iterator[None]:
    """Leave those variables as they were: the next run of this process would take itself for a rank of the last.

    Lightning sets OMP_NUM_THREADS too where it starts several processes.
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
