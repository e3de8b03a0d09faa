"""Collects the predictions of an evaluation epoch, so that metrics are computed once and are exact under DDP."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class PredictionBuffer:
    """Stores (outputs, targets, index) of every batch; `collect` returns each sample once, in the order of the set."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Tensor, y: Tensor, index: Tensor) -> None:
        """Store a batch: outputs [B, K], targets [B] or [B, D], index [B]."""
        self._parts.append((outputs.detach().float(), y, index))

    def collect(self, all_gather: Callable[[Tensor], Any] | None) -> tuple[Tensor, Tensor]:
        """Empty the buffer and return (outputs, targets), without duplicates from padding; ordered by index if gathered.

        `all_gather` maps a tensor [N, …] of each of W processes to [W, N, …]; N is the same in all processes.
        """
        if not self._parts:
            raise RuntimeError("no predictions to collect: the evaluation set is empty")
        outputs, y, index = (torch.cat(part) for part in zip(*self._parts, strict=True))
        self._parts = []
        if all_gather is None:
            return outputs, y
        outputs, y, index = (all_gather(part).flatten(0, 1) for part in (outputs, y, index))
        order = index.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]
        kept = order[first]
        return outputs[kept], y[kept]
