"""DDP communication hooks: how gradients are compressed and averaged."""

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
    """Averages gradients over the ranks, bucket by bucket, on any device, and counts the bytes it sends."""

    bytes_counter: BytesCounter
    depends_on_buckets = False  # which DDP rebuilds after its first call, however many steps that call takes

    def attach(self, model: DistributedDataParallel, bytes_counter: BytesCounter, step: int) -> None:
        """Register as the hook of `model` after `step` optimizer steps."""
        self.bytes_counter = bytes_counter
        model.register_comm_hook(self, _call_hook)

    def average(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """A future of the averaged gradients, in the shape of the bucket's flat buffer."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State of this rank for the checkpoint: plain values and tensors."""
        return {}

    def load_state_dicts(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Restore from the states of all ranks: empty for a new run; their number may differ from `world_size`."""


def _call_hook(hook: CommHook, bucket: dist.GradBucket) -> Future[Tensor]:
    return hook.average(bucket)


class HalfPrecision(CommHook):
    """Sends and sums gradients in 16 bits: half the bytes.

    Args:
        dtype: ``float16`` has 11 significant bits and overflows at 65504 (the NaN check then ends the run); ``bfloat16``
            has 8 bits and the range of float32.
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
    """Sends gradient matrices as two low-rank factors, with error feedback (Vogels et al. 2019).

    Its state is not in checkpoints: torch stores factors and error by position in DDP's buckets, which are rebuilt in the
    first step of every process. A resumed run sends uncompressed gradients for two steps and starts without the old error.

    Args:
        rank: rank of the factors.
        start_step: optimizer steps with uncompressed gradients before; at least 2.
        min_compression_rate: a matrix [n, m] is compressed only if (n + m) * rank * rate < n * m.
        use_error_feedback, warm_start: as in the paper, algorithms 1 and 2.
        orthogonalization_epsilon: added to column norms, which are zero for layers without gradients.
        random_seed: seed of the first factors, equal on all ranks.
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
            raise UserError(f"strategy.hook.rank={rank}: expected at least 1")
        if start_step < 2:
            raise UserError(
                f"strategy.hook.start_step={start_step}: expected at least 2: DDP rebuilds its buckets in the first steps"
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
        if dist.get_backend() == "gloo":  # its threads may start a bucket's second all-reduce before or after the next
            future.wait()  # bucket's first one, in a different order on each rank
        numbers = state.total_numel_after_compression - before if compresses else whole
        self.bytes_counter.add(numbers * torch.finfo(bucket.buffer().dtype).bits // 8)
        return future
