"""The cores and GPUs of each of several trials at a time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.strategy.launch.environment import num_threads


@dataclass(frozen=True)
class Slot:
    """Room for one trial: its cores by number, and its GPUs (None if trials use none)."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None = None


def allocate(jobs: int, cores: Sequence[int], gpus: Sequence[str] = (), gpus_each: int = 0) -> list[Slot]:
    """Divide cores and GPUs among `jobs` slots; if there are fewer than slots, slots share them.

    >>> [slot.cores for slot in shares(2, [0, 1, 2, 3])]
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
