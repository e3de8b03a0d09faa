"""The interface of DDP's communication hooks, and how state that differs between ranks reaches the checkpoint."""

from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.trust import component
from lightning_modules.strategy.comm_stats import BytesCounter


@component
class CommHook:
    """Averages gradients over the ranks, bucket by bucket, on any device, and counts the bytes it sends."""

    bytes_counter: BytesCounter
    depends_on_buckets = False  # which DDP rebuilds after its first call, however many steps that call takes

    def attach(self, model: DistributedDataParallel, bytes_counter: BytesCounter, step: int) -> None:
        """Register as the hook of `model` after `step` optimizer steps."""
        self.bytes_counter = bytes_counter
        model.register_comm_hook(self, type(self).average)

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """A future of the averaged gradients, in the shape of the bucket's flat buffer."""
        raise NotImplementedError

    def state_dict(self) -> StateDict:
        """State of this rank for the checkpoint: plain values and tensors."""
        return {}

    def load_state_dicts(self, states: list[StateDict], rank: int, world_size: int) -> None:
        """Restore from the states of all ranks: empty for a new run; their number may differ from `world_size`."""


def gather_on_rank_zero(mine: object) -> list[Any] | None:
    """`mine` of each rank with its tensors on the CPU, or None on other ranks than 0. All ranks must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [to_cpu(mine)]
    ranks: list[object] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(to_cpu(mine), ranks)
    return ranks


def to_cpu(value: object) -> object:
    """`value` with its tensors copied to the CPU."""
    form = torch.contiguous_format
    return apply_to_collection(value, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True, memory_format=form))
