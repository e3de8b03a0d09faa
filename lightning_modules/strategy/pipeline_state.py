"""What the ranks of a pipeline hold, put together to the state of one process."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_tensors(state: Mapping[str, Tensor], owner: Mapping[str, int], device: torch.device) -> dict[str, Tensor]:
    """Each tensor of `state` from the rank that has it, on the CPU of all ranks, which must all call this."""
    gathered = {}
    for name, tensor in state.items():
        source = owner.get(name, 0)  # what no part uses is the same on all
        mine = source == dist.get_rank()
        sent = (tensor.detach() if mine else torch.empty_like(tensor, device=device)).contiguous()
        dist.broadcast(sent, src=source)
        gathered[name] = sent.to("cpu", copy=True)
    return gathered


def gather_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """The states of all ranks together on the first one, under the numbers of one process; elsewhere the rank's own."""
    plain: dict[str, Any] = optimizer.state_dict()
    mine = local_optimizer_states(optimizer, plain["state"])
    states: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object({n: _to_cpu(state) for n, state in mine.items()}, states)
    together = {n: state for part in states or [mine] for n, state in part.items()}
    return {**plain, "state": dict(sorted(together.items()))}


def local_optimizer_states(optimizer: Any, states: Mapping[int, Any]) -> dict[int, Any]:
    """Of states by number those of the parameters that this rank has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {n: states[n] for n, parameter in enumerate(parameters) if n in states and not parameter.is_meta}


def drop_meta_states(optimizer: Any) -> None:
    """Forget what an optimizer has prepared for parameters of other ranks, as Adagrad does."""
    for parameter in [p for p in optimizer.state if p.is_meta]:
        del optimizer.state[parameter]


def _to_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.cpu() if isinstance(value, Tensor) else value for key, value in state.items()}
