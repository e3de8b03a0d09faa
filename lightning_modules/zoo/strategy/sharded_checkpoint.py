"""Checkpoints of shards: read by any number of ranks, without unpickling."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_modules.compat.torch import StateDict, shard_offset
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.tracking.checkpoint import read_checkpoint

_Value = TypeVar("_Value")
FULL_SHAPE = "piece_of"  # key of the full shape in a dict that holds one shard of a tensor
_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.ckpt")


def gather(value: _Value) -> _Value:
    """`value` with each sharded tensor gathered on the CPU. A collective: all ranks must call it with the same structure."""
    return apply_to_collection(
        value, Tensor, lambda tensor: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
    )


def shard_like(value: object, parameter: Tensor | None) -> object:
    """`value` sharded like `parameter` if it has its shape; otherwise (a step counter) unchanged."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def local_shards(value: object) -> object:
    """`value` with each sharded tensor replaced by a plain dict: this rank's part, its offset and the full shape."""

    def piece(tensor: DTensor) -> StateDict:
        local = tensor.to_local().detach().cpu().clone()
        return {FULL_SHAPE: list(tensor.shape), "offset": list(shard_offset(tensor)), "part": local}

    return apply_to_collection(value, DTensor, piece)


def write_shards(
    folder: Path, state: Mapping[str, object], rank: int, world_size: int, barrier: Callable[[], None]
) -> None:
    """Write this rank's `state` to `folder`; an existing folder is replaced once all ranks have written."""
    beside = folder.with_name(f"{folder.name}.tmp")
    if rank == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    barrier()
    save_with_checksum(local_shards(dict(state)), beside / f"rank-{rank}-of-{world_size}.ckpt")
    barrier()
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def read_shards(folder: Path) -> StateDict:
    """Assemble the full state written by any number of ranks; unsharded values are taken from rank 0.

    Raises UserError if files are missing or damaged.
    """
    found = {path: match for path in sorted(folder.glob("*.ckpt")) if (match := _FILE.fullmatch(path.name))}
    sizes = {int(match.group(2)) for match in found.values()}
    if len(sizes) != 1 or len(found) != max(sizes):
        names = ", ".join(path.name for path in found) or "no file"
        raise UserError(f"The sharded checkpoint {folder} is incomplete: it contains {names}")
    parts = [read_checkpoint(path) for path in sorted(found, key=lambda path: int(found[path].group(1)))]
    return _assemble(parts)


def _assemble(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, dict) and FULL_SHAPE in first:
        full = torch.empty(first[FULL_SHAPE], dtype=first["part"].dtype)
        for part in parts:
            place = tuple(slice(o, o + n) for o, n in zip(part["offset"], part["part"].shape, strict=True))
            full[place] = part["part"]
        return full
    if isinstance(first, dict):
        return {key: _assemble([part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_assemble(list(items)) for items in zip(*parts, strict=True))
    return first


def shard_optimizer_state(states: PlainDict, parameters: Iterator[Tensor]) -> StateDict:
    """An optimizer's ``state_dict`` with its tensors sharded like `parameters`, which are in the order of its groups."""
    ids = [number for group in states["param_groups"] for number in group["params"]]
    of = dict(zip(ids, parameters, strict=True))
    state = {n: {key: shard_like(v, of[n]) for key, v in values.items()} for n, values in states["state"].items()}
    return {**states, "state": state}
