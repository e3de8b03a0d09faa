"""FSDP2: parameters, gradients and optimizer states sharded over the ranks."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lightning_modules.strategy.model_parallel import ModelParallel


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
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    large = (
        m for m in members if sum(p.numel() for p in m.parameters()) >= min_params and not isinstance(m, containers)
    )
    return list(dict.fromkeys(large))
