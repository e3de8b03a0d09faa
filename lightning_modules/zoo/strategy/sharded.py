"""Data parallelism with sharded state: the optimizer's (ZeRO stage 1), or parameters and gradients too (FSDP2)."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, cast

import torch
from omegaconf import ListConfig
from pytorch_lightning import Trainer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.strategy.ddp import CheckedDDP
from lightning_modules.zoo.strategy.model_parallel import ModelParallel


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
        self.bytes_counter.sent += self._broadcast_bytes
        return super().optimizer_step(*args, **kwargs)


def _zero_redundancy(optimizer: object) -> functools.partial[ZeroRedundancyOptimizer]:
    """The same optimizer with sharded states. Raises UserError if it is not a subclass of torch's Optimizer."""
    kind = getattr(optimizer, "func", optimizer)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(
            f"strategy=zero1: the optimizer must be a class such as torch.optim.AdamW, not {kind}; or use strategy=ddp"
        )
    given = getattr(optimizer, "keywords", {}).items()
    # they are part of the optimizer state, and a checkpoint holds plain values only
    keywords: PlainDict = {key: tuple(value) if isinstance(value, ListConfig) else value for key, value in given}
    return functools.partial(ZeroRedundancyOptimizer, optimizer_class=kind, **keywords)


class FSDP2(ModelParallel):
    """Parameters, gradients and optimizer states sharded over the ranks, each with its own samples; same weights as DDP.

    Zhao et al. 2023, "PyTorch FSDP"; torch's ``fully_shard``: a layer's weights are gathered before use and freed after.

    Args:
        min_params: elements of a ``Sequential`` or ``ModuleList`` with at least this many parameters are gathered
            separately, smaller ones together with their parent.
        reshard_after_forward: free those weights between forward and backward too: less memory, half again as much
            traffic.
        settings: see `ModelParallel`.
    """

    def __init__(self, min_params: int = 100_000, reshard_after_forward: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.min_params, self.reshard_after_forward = min_params, reshard_after_forward
        self._gathered = self._reduced = 0

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        parts = layers_to_wrap(model, self.min_params)
        twice = {id(p): p for part in parts for p in part.parameters()} if self.reshard_after_forward else {}
        self._reduced = sum(p.numel() * p.element_size() for p in model.parameters())
        again = sum(p.numel() * p.element_size() for p in twice.values())
        self._gathered = (self._reduced + again) // mesh.size()
        for part in parts:
            fully_shard(part, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)

    def bytes_per_backward(self, synchronised: bool) -> int:
        """This rank's shard once per all-gather, and all gradients once."""
        return self._gathered + (self._reduced if synchronised else 0)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep accumulated gradients unsharded on each rank, without communication."""
        model = cast(FSDPModule, self._task.model)
        model.set_requires_gradient_sync(False)
        self._synchronised = False
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
            self._synchronised = True


def layers_to_wrap(model: nn.Module, min_params: int) -> list[nn.Module]:
    """Elements of ``Sequential`` and ``ModuleList`` with at least `min_params` parameters, innermost first."""
    holders = [module for module in model.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    members = [member for holder in reversed(holders) for member in holder.children()]
    layers = (m for m in members if not isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict))
    return list(dict.fromkeys(m for m in layers if sum(p.numel() for p in m.parameters()) >= min_params))
