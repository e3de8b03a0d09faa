"""Verify before training that all ranks agree: number of processes, config, data, weights and torch version."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.batch_sampler import BatchSampler

# May differ between ranks: only rank 0 records, and nodes may have the data in different folders.
RANK_SPECIFIC_KEYS = (
    "tracking",
    "sweep",
    "search",
    "claim",
    "name",
    "overrides",
    "choices",
    "data.root",
    "data.cache_dir",
)
_MAX_SHOWN = 6  # differences listed in a message


def verify_ranks_agree(
    model: nn.Module,
    world_size: int,
    device: torch.device,
    config: Mapping[str, Any] | None = None,
    data: str = "",
) -> None:
    """Raise the same UserError on all ranks if they disagree. A collective: all ranks must call it.

    Args:
        world_size: number of processes that this rank's trainer expects.
        device: for the tensors of the collectives.
        config: resolved config as plain values.
        data: fingerprint of the data, if known.
    """
    count = torch.ones(1, device=device)
    dist.all_reduce(count)
    settings, weights = flatten_config(config or {}), weight_hashes(model)
    mine = {
        "world_size": world_size,
        "config": _hash(settings),
        "weights": _hash(weights),
        "data": data,
        "torch": torch.__version__,
    }
    all_said = _all_gather(mine)
    mistakes = _world_size_errors(int(count), [said["world_size"] for said in all_said])
    for rank, said in enumerate(all_said):
        for key, spoken in (("data", "data fingerprint"), ("torch", "torch")):
            if said[key] != all_said[0][key]:
                mistakes.append(f"rank {rank} has {spoken} {said[key]}, rank 0 {all_said[0][key]}")
    # all ranks have the same reports, so either all or none enter the next collectives
    if len({said["config"] for said in all_said}) > 1:
        mistakes += _config_differences(_all_gather(settings))
    if len({said["weights"] for said in all_said}) > 1:
        mistakes += _weight_differences(_all_gather(weights))
    if mistakes:
        raise UserError("The ranks disagree:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def verify_equal_batch_counts(loader: Any, limit: int | float = 1.0) -> None:
    """Raise the same UserError on all ranks if their numbers of batches per epoch differ or are all 0.

    Args:
        loader: of this rank; not checked if it has no length.
        limit: ``trainer.limit_train_batches``; an integer is a limit per rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    try:
        count = min(_num_batches(loader), limit) if isinstance(limit, int) else _num_batches(loader)
    except (TypeError, NotImplementedError):
        count = None
    counts = _all_gather(count)
    if None in counts:
        return
    told = ", ".join(f"rank {rank} has {count}" for rank, count in enumerate(counts))
    if len(set(counts)) > 1:
        raise UserError(
            f"The ranks have different numbers of batches per epoch and would deadlock: {told}; "
            "use data.drop_last=true or trainer.limit_train_batches=N"
        )
    if not max(counts):
        raise UserError(
            f"Too few training samples for a full batch on each rank ({told}): use data.drop_last=false, "
            "a smaller data.batch_size, or fewer trainer.devices"
        )


def _num_batches(loader: Any) -> int:
    """Batches per epoch; with a `BatchOrder` one item of the loader may hold several."""
    order = getattr(loader, "sampler", None)
    return -(-order.num_samples // order.batch_size) if isinstance(order, BatchSampler) else len(loader)


def flatten_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Leaves of the config as text by dotted key, without keys that may differ between ranks."""
    return {key: value for key, value in _leaves(config, "") if not _is_rank_specific(key)}


def weight_hashes(model: nn.Module) -> dict[str, str]:
    """Sha256 of each parameter and buffer by name, except shards and meta tensors."""
    digests = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not isinstance(tensor, DTensor) and not tensor.is_meta:
            plain = tensor.detach().cpu().contiguous().flatten()
            digests[name] = hashlib.sha256(plain.view(torch.uint8).numpy().data).hexdigest() if plain.numel() else ""
    return digests


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(node, default=str)


def _is_rank_specific(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in RANK_SPECIFIC_KEYS)


def _hash(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _all_gather(mine: Any) -> list[Any]:
    """The value of each rank, in rank order."""
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, mine)
    return said


def _world_size_errors(answered: int, wanted: Sequence[int]) -> list[str]:
    wrong: dict[int, list[str]] = {}
    for rank, size in enumerate(wanted):
        if size != answered:
            wrong.setdefault(size, []).append(str(rank))
    return [
        f"trainer.devices: {answered} processes joined, but {size} were expected (by rank {', '.join(ranks)})"
        for size, ranks in wrong.items()
    ]


def _config_differences(all_said: Sequence[Mapping[str, str]]) -> list[str]:
    mistakes = []
    for rank, said in enumerate(all_said):
        keys = [key for key in {**all_said[0], **said} if said.get(key) != all_said[0].get(key)]
        shown = [
            f"{key}={_shown_value(said, key)} (rank 0: {_shown_value(all_said[0], key)})" for key in keys[:_MAX_SHOWN]
        ]
        if keys:
            mistakes.append(f"rank {rank} has {', '.join(shown)}{_and_more(len(keys))}")
    return mistakes


def _weight_differences(all_said: Sequence[Mapping[str, str]]) -> list[str]:
    mistakes = []
    for rank, said in enumerate(all_said):
        names = [name for name in {**all_said[0], **said} if said.get(name) != all_said[0].get(name)]
        if names:
            listed = f"{', '.join(names[:_MAX_SHOWN])}{_and_more(len(names))}"
            mistakes.append(f"rank {rank} starts from different parameters than rank 0: {listed}")
    return mistakes


def _shown_value(said: Mapping[str, str], key: str) -> str:
    return said[key].strip('"') if key in said else "nothing"


def _and_more(count: int) -> str:
    return f" and {count - _MAX_SHOWN} more" if count > _MAX_SHOWN else ""
