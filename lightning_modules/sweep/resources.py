"""Which cores and which GPUs each of several runs at a time gets."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.strategy.launch.environment import num_threads


@dataclass(frozen=True)
class Slot:
    """The share of one slot: its cores by number, and its GPUs (None where runs use none)."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None = None


def allocate(jobs: int, cores: Sequence[int], gpus: Sequence[str] = (), gpus_each: int = 0) -> list[Slot]:
    """Divide cores and GPUs among `jobs` slots; where there are fewer than slots, slots share them in turn.

    >>> [place.cores for place in shares(2, [0, 1, 2, 3])]
    [(0, 1), (2, 3)]
    """
    each = max(1, len(cores) // jobs)
    places = []
    for slot in range(jobs):
        own = tuple(cores[(slot * each + i) % len(cores)] for i in range(each))
        first = slot * gpus_each
        mine = tuple(gpus[(first + i) % len(gpus)] for i in range(min(gpus_each, len(gpus)))) if gpus else None
        places.append(Slot(own, mine))
    return places


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would see, without asking CUDA: a process that has must not fork."""
    from lightning_modules.tracking.provenance import _gpus

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(_gpus()))]


def pin(place: Slot) -> None:
    """Keep this process, and all that it starts, to its share."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cores)
    torch.set_num_threads(num_threads(len(place.cores)))
    if place.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
