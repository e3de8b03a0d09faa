"""The interface of DDP's communication hooks: how gradients are averaged over the ranks."""

import torch.distributed as dist
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
