"""Sparse gradients: each rank sends its largest entries, and remembers the others until they have grown large."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_hooks import CommHook
from lightning_modules.strategy.comm_stats import BytesCounter


class TopK(CommHook):
    """Top-k sparsification with error feedback (Stich et al. 2018, algorithm 1; Karimireddy et al. 2019, algorithm 2).

    Per bucket of DDP: the residual is added to the gradient, the k entries of largest magnitude are sent with their places,
    what was not sent is the next residual. Each rank gets all of them and takes the mean: W * k entries at most. As in
    Karimireddy et al. the residual is of gradients, not of steps; momentum correction, clipping per rank and the masking of
    momentum (Lin et al. 2018) are not done. Residuals are kept per parameter: they outlive the cutting of new buckets, as at the
    start of a resumed run, where of entries of equal magnitude others may go first.

    Bytes a bucket and rank: 8 k for float32 and smaller (an int32 place, a float32 value), 16 k for float64.

    Args:
        density: k as a fraction of a bucket, in (0, 1]; at least one entry.
        start_step: optimizer steps with whole gradients before.
    """

    depends_on_buckets = True

    def __init__(self, density: float = 0.01, start_step: int = 0) -> None:
        if not 0 < density <= 1:
            raise UserError(f"strategy.hook.density={density}: it must lie in (0, 1]")
        if start_step < 0:
            raise UserError(f"strategy.hook.start_step={start_step}: it must be 0 or more")
        self.density, self.start_step = density, start_step
        self._residuals: dict[str, Tensor] = {}

    def attach(self, model: DistributedDataParallel, bytes_counter: BytesCounter, step: int) -> None:
        self._step = step
        self._names = {id(parameter): name for name, parameter in model.module.named_parameters()}
        device = {name: parameter.device for name, parameter in model.module.named_parameters()}
        self._residuals = {name: residual.to(device[name]) for name, residual in self._residuals.items()}
        super().attach(model, bytes_counter, step)

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        whole = self._step < self.start_step
        self._step += bucket.is_last()
        gradients = bucket.buffer()
        if whole:
            self.bytes_counter.add(gradients.numel() * gradients.element_size())
            mean = gradients.div_(dist.get_world_size())
            return dist.all_reduce(mean, async_op=True).get_future().then(lambda done: done.value()[0])
        self._add_residuals(bucket)
        k = max(1, math.ceil(self.density * gradients.numel()))
        places = gradients.abs().topk(k, sorted=False).indices
        message = encode_entries(gradients[places], places)
        gradients[places] = 0.0
        self._keep_residuals(bucket)
        return self._exchange(gradients, message)

    def _exchange(self, gradients: Tensor, message: Tensor) -> Future[Tensor]:
        """Send the message, and write the mean of all ranks' into the buffer."""
        world_size = dist.get_world_size()
        received = message.new_empty(world_size * message.numel())
        self.bytes_counter.add(message.numel() * message.element_size())
        sent: Any = dist.all_gather_into_tensor(received, message, async_op=True)

        def spread(done: Future[Any]) -> Tensor:
            done.wait()
            gradients.zero_()
            for part in received.chunk(world_size):  # in the order of the ranks: the sums are the same everywhere
                values, places = decode_entries(part)
                gradients.index_add_(0, places, values.to(gradients.dtype), alpha=1 / world_size)
            return gradients

        return sent.get_future().then(spread)

    def _add_residuals(self, bucket: dist.GradBucket) -> None:
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            residual = self._residuals.get(self._names[id(parameter)])
            if residual is not None:
                gradient.add_(residual.view_as(gradient))

    def _keep_residuals(self, bucket: dist.GradBucket) -> None:
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name = self._names[id(parameter)]
            if name in self._residuals:
                self._residuals[name].copy_(gradient)
            else:
                self._residuals[name] = gradient.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """The residuals [shape of the parameter] by the parameter's name."""
        return {name: residual.cpu() for name, residual in self._residuals.items()}

    def load_state_dicts(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Each rank takes its own; where their number is another, the mean: what the weights are owed stays the same."""
        self._residuals = {}
        if len(states) == world_size:
            self._residuals = dict(states[rank])
        elif states:
            self._residuals = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def encode_entries(values: Tensor, places: Tensor) -> Tensor:
    """k values and int64 places -> one tensor of 2k integers, so that one collective carries both."""
    if values.dtype == torch.float64:
        return torch.cat([values.view(torch.int64), places])
    return torch.cat([values.float().view(torch.int32), places.int()])


def decode_entries(message: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse of `pack`: float32 or float64 values [k] and int64 places [k]."""
    values, places = message.chunk(2)
    return values.view(torch.float64 if message.dtype == torch.int64 else torch.float32), places.long()
