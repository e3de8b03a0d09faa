"""Gather the state of a pipeline's ranks into the state of one process."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_tensors(state: Mapping[str, Tensor], owner: Mapping[str, int], device: torch.device) -> dict[str, Tensor]:
    """Each tensor of `state` from its owner, on the CPU of all ranks. A collective: all ranks must call it."""
    gathered = {}
    for name, tensor in state.items():
        source = owner.get(name, 0)  # tensors that no part uses are equal on all ranks
        mine = source == dist.get_rank()
        sent = (tensor.detach() if mine else torch.empty_like(tensor, device=device)).contiguous()
        dist.broadcast(sent, src=source)
        gathered[name] = sent.to("cpu", copy=True)
    return gathered


def gather_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """On rank 0 the states of all ranks, numbered as in one process; on other ranks their own states."""
    plain: dict[str, Any] = optimizer.state_dict()
    mine = local_optimizer_states(optimizer, plain["state"])
    states: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object({n: _to_cpu(state) for n, state in mine.items()}, states)
    together = {n: state for part in states or [mine] for n, state in part.items()}
    return {**plain, "state": dict(sorted(together.items()))}


def local_optimizer_states(optimizer: Any, states: Mapping[int, Any]) -> dict[int, Any]:
    """The states of the parameters that this rank has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {n: states[n] for n, parameter in enumerate(parameters) if n in states and not parameter.is_meta}


def drop_meta_states(optimizer: Any) -> None:
    """Drop states that an optimizer such as Adagrad created for parameters of other ranks."""
    for parameter in [p for p in optimizer.state if p.is_meta]:
        del optimizer.state[parameter]


def _to_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.cpu() if isinstance(value, Tensor) else value for key, value in state.items()}
