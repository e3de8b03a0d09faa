"""Checkpoints in pieces: each rank writes what it holds, and any number of ranks reads it back, without unpickling."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_modules.compat.torch import shard_offset
from lightning_modules.config.errors import UserError
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.tracking.checkpoint import read_checkpoint

FULL_SHAPE = "piece_of"  # marks a dict that stands for a part of a tensor
_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.ckpt")


def gather(value: Any) -> Any:
    """`value` with all of each tensor that is spread over ranks, on the CPU. All ranks must call it alike."""
    return _map_tensors(value, lambda tensor: tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor)


def shard_like(value: Any, parameter: Tensor | None) -> Any:
    """`value` laid out over the ranks as `parameter` is, where it has its shape; else as it is (a counter of steps)."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def local_shards(value: Any) -> Any:
    """`value` with this rank's part of each tensor that is spread: plain values, with where the part lies."""

    def piece(tensor: Tensor) -> Any:
        if not isinstance(tensor, DTensor):
            return tensor
        local = tensor.to_local().detach().cpu().clone()
        return {FULL_SHAPE: list(tensor.shape), "offset": list(shard_offset(tensor)), "part": local}

    return _map_tensors(value, piece)


def write_shards(
    folder: Path, state: Mapping[str, Any], rank: int, world_size: int, barrier: Callable[[], None]
) -> None:
    """Write this rank's `state` into `folder`, which takes the place of an older one once all ranks have written."""
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


def read_shards(folder: Path) -> dict[str, Any]:
    """The whole state of a folder that any number of ranks wrote; values that each of them holds are those of rank 0.

    Raises:
        UserError: the files of some ranks are missing or damaged, or there are none.
    """
    found = {path: match for path in sorted(folder.glob("*.ckpt")) if (match := _FILE.fullmatch(path.name))}
    sizes = {int(match.group(2)) for match in found.values()}
    if len(sizes) != 1 or len(found) != max(sizes):
        names = ", ".join(path.name for path in found) or "no file"
        raise UserError(f"The sharded checkpoint {folder} is not complete: it holds {names}")
    parts = [read_checkpoint(path) for path in sorted(found, key=lambda path: int(found[path].group(1)))]
    joined: dict[str, Any] = _assemble(parts)
    return joined


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


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Plain containers with `change` applied to every tensor in them, in one order on all ranks."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)((key, _map_tensors(item, change)) for key, item in value.items())  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(item, change) for item in value)
    return value


def shard_optimizer_state(states: Mapping[str, Any], parameters: Iterator[Tensor]) -> dict[str, Any]:
    """An optimizer's plain ``state_dict`` for the `parameters`, in the order of its groups, as they are spread now."""
    ids = [number for group in states["param_groups"] for number in group["params"]]
    of = dict(zip(ids, parameters, strict=True))
    state = {n: {key: shard_like(v, of[n]) for key, v in values.items()} for n, values in states["state"].items()}
    return {**states, "state": state}
