"""ZeRO stage 1: optimizer states sharded over the ranks (Rajbhandari et al. 2020, section 5.1)."""

import functools
from typing import Any

import torch
from omegaconf import ListConfig
from pytorch_lightning import Trainer
from torch.distributed.optim import ZeroRedundancyOptimizer

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.ddp import CheckedDDP


class ZeRO1(CheckedDDP):
    """DDP with sharded optimizer states: each rank updates its share of the parameters and broadcasts them.

    The weights equal those of DDP. Each parameter belongs to one rank, assigned largest first; a single huge layer is
    therefore not split. Checkpoints hold the full state, collected on rank 0 in the plain optimizer's format, so that any
    number of ranks can load them. Traffic: the gradients, as in DDP, and a broadcast of all trained parameters.
    """

    averages_in_backward_only = False

    def setup_optimizers(self, trainer: Trainer) -> None:
        task: Any = self.lightning_module
        plain = task._optimizer
        task._optimizer = _zero_redundancy(plain)
        try:
            super().setup_optimizers(trainer)  # type: ignore[no-untyped-call, unused-ignore]
        finally:
            task._optimizer = plain
        self._broadcast_bytes = sum(
            p.numel() * p.element_size() for p in task.parameters() if p.requires_grad and self.world_size > 1
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> object:
        self.bytes_counter.add(self._broadcast_bytes)
        return super().optimizer_step(*args, **kwargs)


def _zero_redundancy(optimizer: Any) -> functools.partial[ZeroRedundancyOptimizer]:
    """The same optimizer with sharded states. Raises UserError if it is not a subclass of torch's Optimizer."""
    kind = getattr(optimizer, "func", optimizer)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(
            f"strategy=zero1: the optimizer must be a class such as torch.optim.AdamW, not {kind}; or use strategy=ddp"
        )
    given = getattr(optimizer, "keywords", {}).items()
    # they are part of the optimizer state, and a checkpoint holds plain values only
    keywords: dict[str, Any] = {key: tuple(value) if isinstance(value, ListConfig) else value for key, value in given}
    return functools.partial(ZeroRedundancyOptimizer, optimizer_class=kind, **keywords)
