"""FSDP2: parameters, gradients and optimizer states cut over the ranks."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_modules.strategy.model_parallel import ModelParallel


class FSDP2(ModelParallel):
    """Parameters, gradients and optimizer states cut over the ranks; each has samples of its own.

    Zhao et al. 2023, "PyTorch FSDP"; torch's ``fully_shard``. A layer's weights are gathered before it is used and
    dropped after it; equal to DDP.

    Args:
        min_params: members of a list or sequence of layers that have so many are gathered on their own, the others
            together with what is around them.
        reshard_after_forward: drop the weights of those members between forward and backward too: less memory, half
            more traffic.
        settings: of `ModelParallel`.
    """

    def __init__(self, min_params: int = 100_000, reshard_after_forward: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.min_params, self.reshard_after_forward = min_params, reshard_after_forward
        self._gathered = self._reduced = 0

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.fsdp import fully_shard

        parts = layers_to_wrap(model, self.min_params)
        twice = {id(p): p for part in parts for p in part.parameters()} if self.reshard_after_forward else {}
        self._reduced = sum(p.numel() * p.element_size() for p in model.parameters())
        again = sum(p.numel() * p.element_size() for p in twice.values())
        self._gathered = (self._reduced + again) // mesh.size()
        for part in parts:
            fully_shard(part, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)

    def bytes_per_backward(self, synchronised: bool) -> int:
        """This rank's part of the weights, once for each time that they are gathered, and all gradients."""
        return self._gathered + (self._reduced if synchronised else 0)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients that are accumulated are not exchanged yet; they stay whole on each rank until then."""
        model = self._task.model
        model.set_requires_gradient_sync(False)
        self._synchronised = False
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
            self._synchronised = True


def layers_to_wrap(model: nn.Module, min_params: int) -> list[nn.Module]:
    """The members of lists and sequences of layers that have at least `min_params` parameters, the inner ones first."""
    holders = [module for module in model.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    members = [member for holder in reversed(holders) for member in holder.children()]
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    large = (
        m for m in members if sum(p.numel() for p in m.parameters()) >= min_params and not isinstance(m, containers)
    )
    return list(dict.fromkeys(large))
