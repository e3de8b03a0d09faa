"""What the ranks of DDP send in place of float32 gradients: halves, or factors of low rank. `topk.py`: the largest alone."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.trust import component
from lightning_modules.strategy.comm_stats import BytesCounter


@component
class CommHook:
    """Averages the gradients of one bucket after the other over the ranks, on any device, and counts what it sends."""

    bytes_counter: BytesCounter
    depends_on_buckets = False  # which DDP cuts anew after its first call, however many steps that takes

    def attach(self, model: DistributedDataParallel, bytes_counter: BytesCounter, step: int) -> None:
        """Take over the averaging in `model`; `step` optimizer steps lie behind it."""
        self.bytes_counter = bytes_counter
        model.register_comm_hook(self, _call_hook)

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """A future of the averaged gradients, as flat as the bucket's buffer."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What this rank must remember over a checkpoint, as plain values and tensors."""
        return {}

    def load_state_dicts(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take back what all ranks remembered: nothing at a new start, and there may have been more or fewer of them."""


def _call_hook(hook: CommHook, bucket: dist.GradBucket) -> Future[Tensor]:
    return hook.average(bucket)


class HalfPrecision(CommHook):
    """Gradients go in 16 bits: half the bytes, sums in 16 bits too.

    Args:
        dtype: ``float16`` has 11 significant bits and overflows at 65504 (the loss watch then ends the run), ``bfloat16`` has
            8 bits and the range of float32.
    """

    def __init__(self, dtype: Literal["float16", "bfloat16"] = "float16") -> None:
        known = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}
        if dtype not in known:
            raise UserError(f"strategy.hook.dtype={dtype}: {suggest(str(dtype), known)}")
        self._average: Any = known[dtype]

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        self.bytes_counter.add(2 * bucket.buffer().numel())
        return self._average(dist.group.WORLD, bucket)


class PowerSGD(CommHook):
    """Matrices of gradients go as two factors of low rank, what is lost is added to the next step's (Vogels et al. 2019).

    Not kept in checkpoints: torch keeps the factors and the error by the position in DDP's buckets, which are cut anew in the
    first step of every process. A resumed run sends whole gradients for two steps, then goes on without the old error.

    Args:
        rank: of the factors.
        start_step: optimizer steps with whole gradients before; at least 2.
        min_compression_rate: a matrix [n, m] goes whole unless (n + m) * rank * rate < n * m.
        use_error_feedback, warm_start: as in the paper, algorithms 1 and 2.
        orthogonalization_epsilon: added to the norms of columns, which are zero where a layer has no gradient.
        random_seed: of the first factors, the same on all ranks.
    """

    depends_on_buckets = True

    def __init__(
        self,
        rank: int = 1,
        start_step: int = 100,
        min_compression_rate: float = 2.0,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        orthogonalization_epsilon: float = 1e-8,
        random_seed: int = 0,
    ) -> None:
        if rank < 1:
            raise UserError(f"strategy.hook.rank={rank}: it must be 1 or more")
        if start_step < 2:
            raise UserError(
                f"strategy.hook.start_step={start_step}: it must be 2 or more: DDP cuts its buckets anew before"
            )
        self.start_step = start_step
        self._settings: dict[str, Any] = {
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
        if dist.get_backend() == "gloo":  # whose threads would begin the second sum of a bucket before or after the
            future.wait()  # first one of the next, on each rank as it comes
        numbers = state.total_numel_after_compression - before if compresses else whole
        self.bytes_counter.add(numbers * torch.finfo(bucket.buffer().dtype).bits // 8)
        return future
