"""DDP communication hooks that send less: 16 bits, low-rank factors, or the largest entries."""

import math
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.torch import StateDict
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.plain import PlainDict
from lightning_modules.strategy.comm_hooks import CommHook
from lightning_modules.strategy.comm_stats import BytesCounter


class HalfPrecision(CommHook):
    """Sends and sums gradients in 16 bits: half the bytes.

    Args:
        dtype: ``float16`` has 11 significant bits and overflows at 65504 (the NaN check then ends the run); ``bfloat16``
            has 8 bits and the range of float32.
    """

    @bounded
    def __init__(self, dtype: Literal["float16", "bfloat16"] = "float16") -> None:
        known = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}
        self._average: Any = known[dtype]

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        self.bytes_counter.sent += 2 * bucket.buffer().numel()
        return self._average(dist.group.WORLD, bucket)


class PowerSGD(CommHook):
    """Sends gradient matrices as two low-rank factors, with error feedback (Vogels et al. 2019).

    Its state is not in checkpoints: torch stores factors and error by position in DDP's buckets, which are rebuilt in the
    first step of every process. A resumed run sends uncompressed gradients for two steps and starts without the old error.

    Args:
        rank: rank of the factors.
        start_step: optimizer steps with uncompressed gradients before; at least 2, as DDP rebuilds its buckets in
            the first steps.
        min_compression_rate: a matrix [n, m] is compressed only if (n + m) * rank * rate < n * m.
        use_error_feedback, warm_start: as in the paper, algorithms 1 and 2.
        orthogonalization_epsilon: added to column norms, which are zero for layers without gradients.
        random_seed: seed of the first factors, equal on all ranks.
    """

    depends_on_buckets = True

    @bounded
    def __init__(
        self,
        rank: Count = 1,
        start_step: Annotated[int, Ge(2)] = 100,
        min_compression_rate: float = 2.0,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        orthogonalization_epsilon: float = 1e-8,
        random_seed: int = 0,
    ) -> None:
        self.start_step = start_step
        self._settings: PlainDict = {
            "matrix_approximation_rank": rank,
            "min_compression_rate": min_compression_rate,
            "use_error_feedback": use_error_feedback,
            "warm_start": warm_start,
            "orthogonalization_epsilon": orthogonalization_epsilon,
            "random_seed": random_seed,
        }

    def attach(self, model: DistributedDataParallel, bytes_counter: BytesCounter, step: int) -> None:
        start = max(2, self.start_step - step)
        self._state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=start, **self._settings)
        super().attach(model, bytes_counter, step)

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        state, whole = self._state, bucket.buffer().numel()
        compresses, before = state.iter >= state.start_powerSGD_iter, state.total_numel_after_compression
        future = powerSGD_hook.powerSGD_hook(state, bucket)
        if dist.get_backend() == "gloo":  # its threads may start a bucket's second all-reduce before or after the next
            future.wait()  # bucket's first one, in a different order on each rank
        numbers = state.total_numel_after_compression - before if compresses else whole
        self.bytes_counter.sent += numbers * torch.finfo(bucket.buffer().dtype).bits // 8
        return future


class TopK(CommHook):
    """Top-k sparsification with error feedback (Stich et al. 2018, algorithm 1; Karimireddy et al. 2019, algorithm 2).

    Per DDP bucket: the residual is added to the gradient, the k entries of largest magnitude are sent with their indices,
    and what was not sent is the next residual. Each rank gathers all entries and takes the mean: at most W * k entries. As
    in Karimireddy et al. the residual is of gradients, not of updates; momentum correction, local clipping and momentum
    masking (Lin et al. 2018) are not done. Residuals are stored per parameter and so survive rebuilt buckets, as at the
    start of a resumed run; there, entries of equal magnitude may be sent in another order.

    Bytes per bucket and rank: 8 k for float32 and smaller (an int32 index, a float32 value), 16 k for float64.

    Args:
        density: k as a fraction of a bucket, in (0, 1]; at least one entry.
        start_step: optimizer steps with uncompressed gradients before.
    """

    depends_on_buckets = True

    @bounded
    def __init__(self, density: Annotated[float, Gt(0), Le(1)] = 0.01, start_step: Annotated[int, Ge(0)] = 0) -> None:
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
            self.bytes_counter.sent += gradients.numel() * gradients.element_size()
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
        """Gather the entries of all ranks and write their mean into the bucket's buffer."""
        world_size = dist.get_world_size()
        received = message.new_empty(world_size * message.numel())
        self.bytes_counter.sent += message.numel() * message.element_size()
        sent: Any = dist.all_gather_into_tensor(received, message, async_op=True)

        def spread(done: Future[object]) -> Tensor:
            done.wait()
            gradients.zero_()
            for part in received.chunk(world_size):  # in rank order, so that all ranks get the same sums
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

    def state_dict(self) -> StateDict:
        """The residuals [shape of the parameter] by the parameter's name."""
        return {name: residual.cpu() for name, residual in self._residuals.items()}

    def load_state_dicts(self, states: list[StateDict], rank: int, world_size: int) -> None:
        """Each rank takes its own; with another number of ranks, the mean, which preserves the total residual."""
        self._residuals = {}
        if len(states) == world_size:
            self._residuals = dict(states[rank])
        elif states:
            self._residuals = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def encode_entries(values: Tensor, places: Tensor) -> Tensor:
    """k values and int64 indices as one tensor of 2k integers, sent by one collective."""
    if values.dtype == torch.float64:
        return torch.cat([values.view(torch.int64), places])
    return torch.cat([values.float().view(torch.int32), places.int()])


def decode_entries(message: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `encode_entries`: float32 or float64 values [k] and int64 indices [k]."""
    values, places = message.chunk(2)
    return values.view(torch.float64 if message.dtype == torch.int64 else torch.float32), places.long()
