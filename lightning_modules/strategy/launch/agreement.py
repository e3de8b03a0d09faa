"""Whether the processes of a run are one job: as many as wanted, with one config, one set of data and one set of weights."""

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

# What may differ from rank to rank: only the first one records, and a node may hold the data elsewhere.
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
_MAX_SHOWN = 6  # differences that a message names


def verify_ranks_agree(
    model: nn.Module,
    world_size: int,
    device: torch.device,
    config: Mapping[str, Any] | None = None,
    data: str = "",
) -> None:
    """Return on all ranks where they are one job, raise the same UserError on all of them where they are not.

    Args:
        world_size: how many processes this one takes part in, as its trainer says.
        device: where a tensor must lie for the collectives.
        config: plain values of the resolved config.
        data: fingerprint of the data, if it is known.
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
        for key, spoken in (("data", "data of the fingerprint"), ("torch", "torch")):
            if said[key] != all_said[0][key]:
                mistakes.append(f"rank {rank} has {spoken} {said[key]}, rank 0 {all_said[0][key]}")
    # every rank has heard the same, so that all of them come to the next collectives, or none
    if len({said["config"] for said in all_said}) > 1:
        mistakes += _config_differences(_all_gather(settings))
    if len({said["weights"] for said in all_said}) > 1:
        mistakes += _weight_differences(_all_gather(weights))
    if mistakes:
        raise UserError("The ranks are not one job:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def verify_equal_batch_counts(loader: Any, limit: int | float = 1.0) -> None:
    """Raise the same UserError on all ranks where one has other batches in an epoch than the others, or none has any.

    Args:
        loader: of this rank; one that has no length is not looked at.
        limit: ``trainer.limit_train_batches``; a whole number is a limit for each rank.
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
            f"The ranks have different numbers of batches in an epoch, and would wait for each other: {told}; "
            "give all as many (data.drop_last=true), or trainer.limit_train_batches=N"
        )
    if not max(counts):
        raise UserError(
            f"There are too few training samples for a whole batch on each rank ({told}): data.drop_last=false, "
            "a smaller data.batch_size, or fewer trainer.devices"
        )


def _num_batches(loader: Any) -> int:
    """Batches of an epoch, of which the quick loop takes several a call."""
    order = getattr(loader, "sampler", None)
    return -(-order.num_samples // order.batch_size) if isinstance(order, BatchSampler) else len(loader)


def flatten_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Every leaf of the config as text under its dotted name, without what may differ between ranks."""
    return {key: value for key, value in _leaves(config, "") if not _is_rank_specific(key)}


def weight_hashes(model: nn.Module) -> dict[str, str]:
    """Sha256 of each parameter and buffer, by name; shards and tensors without storage have none to compare."""
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
    """What each rank says, in their order."""
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, mine)
    return said


def _world_size_errors(answered: int, wanted: Sequence[int]) -> list[str]:
    wrong: dict[int, list[str]] = {}
    for rank, size in enumerate(wanted):
        if size != answered:
            wrong.setdefault(size, []).append(str(rank))
    return [
        f"trainer.devices: {answered} processes answered, but {size} were asked for (by rank {', '.join(ranks)})"
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
