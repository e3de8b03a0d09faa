"""What a process inherits: the variables by which ranks find each other, and the cores and GPUs that it may use."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


# --- several processes at a time -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slot:
    """Room for one trial: its cores by number, and its GPUs (None if trials use none)."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None = None


def allocate(jobs: int, cores: Sequence[int], gpus: Sequence[str] = (), gpus_each: int = 0) -> list[Slot]:
    """Divide cores and GPUs among `jobs` slots; if there are fewer than slots, slots share them.

    >>> [slot.cores for slot in allocate(2, [0, 1, 2, 3])]
    [(0, 1), (2, 3)]
    """
    each = max(1, len(cores) // jobs)
    slots = []
    for index in range(jobs):
        own = tuple(cores[(index * each + i) % len(cores)] for i in range(each))
        first = index * gpus_each
        mine = tuple(gpus[(first + i) % len(gpus)] for i in range(min(gpus_each, len(gpus)))) if gpus else None
        slots.append(Slot(own, mine))
    return slots


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would see, without initialising CUDA: a process that did must not fork."""
    from lightning_modules.tracking.provenance import _gpus

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(_gpus()))]


def pin(slot: Slot) -> None:
    """Pin this process, and all that it starts, to the slot."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    torch.set_num_threads(num_threads(len(slot.cores)))
    if slot.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
