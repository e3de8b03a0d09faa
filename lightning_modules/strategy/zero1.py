"""ZeRO, stage 1: each rank holds the optimizer's state of its share of the parameters (Rajbhandari et al. 2020, section 5.1)."""

import functools
from typing import Any

import torch
from omegaconf import ListConfig
from pytorch_lightning import Trainer
from torch.distributed.optim import ZeroRedundancyOptimizer

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.ddp import CheckedDDP


class ZeRO1(CheckedDDP):
    """DDP whose optimizer state is shared out: each rank steps its parameters and sends them to the others.

    Weights are those of DDP. Parameters go whole to one rank each, the largest first, so that one huge layer is not split.
    Checkpoints hold the whole state (collected on rank 0) in the plain optimizer's form: any number of ranks reloads them.
    A rank sends the gradients, as DDP does, and takes part in the broadcast of all trained parameters.
    """

    supports_multi_step = False

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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        self.bytes_counter.add(self._broadcast_bytes)
        return super().optimizer_step(*args, **kwargs)


def _zero_redundancy(optimizer: Any) -> functools.partial[ZeroRedundancyOptimizer]:
    """The same optimizer over a share of the parameters. Raises UserError where it is no class of torch's kind."""
    kind = getattr(optimizer, "func", optimizer)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(
            f"strategy=zero1: the optimizer must be a class like torch.optim.AdamW, not {kind}; or strategy=ddp"
        )
    given = getattr(optimizer, "keywords", {}).items()
    # they come back in the state: a node of the config there would be no plain value in a checkpoint
    keywords: dict[str, Any] = {key: tuple(value) if isinstance(value, ListConfig) else value for key, value in given}
    return functools.partial(ZeroRedundancyOptimizer, optimizer_class=kind, **keywords)
