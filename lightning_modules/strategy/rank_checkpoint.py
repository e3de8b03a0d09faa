"""What each rank has for itself, in one checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CHECKPOINT_KEY = "local_steps"


def gather_rank_states(checkpoint: dict[str, Any], algorithm: str, mine: Any, shared: Any) -> None:
    """Put ``{"algorithm", "shared", "ranks": [of rank 0, …]}`` into the checkpoint of rank 0. All ranks call it."""
    mine = _to_cpu(mine)
    ranks: list[Any] | None = [mine]
    if dist.is_initialized() and dist.get_world_size() > 1:
        ranks = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(mine, ranks)
    if ranks is not None:
        checkpoint[CHECKPOINT_KEY] = {"algorithm": algorithm, "shared": _to_cpu(shared), "ranks": ranks}


def shared_state_of(checkpoint: Mapping[str, Any], algorithm: str) -> dict[str, Any] | None:
    """What all ranks share, or None where the checkpoint was written by another algorithm."""
    found = checkpoint.get(CHECKPOINT_KEY)
    return found["shared"] if found and found["algorithm"] == algorithm else None


def rank_state_of(checkpoint: Mapping[str, Any], algorithm: str, rank: int, world_size: int) -> dict[str, Any] | None:
    """What a rank had for itself, or None where another algorithm or another number of ranks wrote the checkpoint."""
    found = checkpoint.get(CHECKPOINT_KEY)
    if not found or found["algorithm"] != algorithm or len(found["ranks"]) != world_size:
        return None
    return found["ranks"][rank]


def _to_cpu(value: Any) -> Any:
    """Plain values with copies of their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list | tuple) else value
