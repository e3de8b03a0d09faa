"""Whether the processes of a run are one job: as many as wanted, with one config, one set of data and one set of weights."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.data.order import BatchOrder
from lightning_modules.errors import UserError

# What may differ from rank to rank: only the first one records, and a node may hold the data elsewhere.
APART = ("tracking", "sweep", "search", "claim", "name", "overrides", "choices", "data.root", "data.cache_dir")
_SHOWN = 6  # differences that a message names


def shake_hands(
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
    settings, weights = flat_config(config or {}), weight_digests(model)
    mine = {
        "world_size": world_size,
        "config": _digest(settings),
        "weights": _digest(weights),
        "data": data,
        "torch": torch.__version__,
    }
    all_said = _gather(mine)
    mistakes = _counted(int(count), [said["world_size"] for said in all_said])
    for rank, said in enumerate(all_said):
        for key, spoken in (("data", "data of the fingerprint"), ("torch", "torch")):
            if said[key] != all_said[0][key]:
                mistakes.append(f"rank {rank} has {spoken} {said[key]}, rank 0 {all_said[0][key]}")
    # every rank has heard the same, so that all of them come to the next collectives, or none
    if len({said["config"] for said in all_said}) > 1:
        mistakes += _other_settings(_gather(settings))
    if len({said["weights"] for said in all_said}) > 1:
        mistakes += _other_weights(_gather(weights))
    if mistakes:
        raise UserError("The ranks are not one job:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def compare_batches(loader: Any, limit: int | float = 1.0) -> None:
    """Raise the same UserError on all ranks where one has other batches in an epoch than the others, or none has any.

    Args:
        loader: of this rank; one that has no length is not looked at.
        limit: ``trainer.limit_train_batches``; a whole number is a limit for each rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    try:
        count = min(_steps(loader), limit) if isinstance(limit, int) else _steps(loader)
    except (TypeError, NotImplementedError):
        count = None
    counts = _gather(count)
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


def _steps(loader: Any) -> int:
    """Batches of an epoch, of which the quick loop takes several a call."""
    order = getattr(loader, "sampler", None)
    return -(-order.num_samples // order.batch_size) if isinstance(order, BatchOrder) else len(loader)


def flat_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Every leaf of the config as text under its dotted name, without what may differ between ranks."""
    return {key: value for key, value in _leaves(config, "") if not _is_apart(key)}


def weight_digests(model: nn.Module) -> dict[str, str]:
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


def _is_apart(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in APART)


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _gather(mine: Any) -> list[Any]:
    """What each rank says, in their order."""
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, mine)
    return said


def _counted(answered: int, wanted: Sequence[int]) -> list[str]:
    wrong: dict[int, list[str]] = {}
    for rank, size in enumerate(wanted):
        if size != answered:
            wrong.setdefault(size, []).append(str(rank))
    return [
        f"trainer.devices: {answered} processes answered, but {size} were asked for (by rank {', '.join(ranks)})"
        for size, ranks in wrong.items()
    ]


def _other_settings(all_said: Sequence[Mapping[str, str]]) -> list[str]:
    mistakes = []
    for rank, said in enumerate(all_said):
        keys = [key for key in {**all_said[0], **said} if said.get(key) != all_said[0].get(key)]
        shown = [f"{key}={_spoken(said, key)} (rank 0: {_spoken(all_said[0], key)})" for key in keys[:_SHOWN]]
        if keys:
            mistakes.append(f"rank {rank} has {', '.join(shown)}{_rest(len(keys))}")
    return mistakes


def _other_weights(all_said: Sequence[Mapping[str, str]]) -> list[str]:
    mistakes = []
    for rank, said in enumerate(all_said):
        names = [name for name in {**all_said[0], **said} if said.get(name) != all_said[0].get(name)]
        if names:
            listed = f"{', '.join(names[:_SHOWN])}{_rest(len(names))}"
            mistakes.append(f"rank {rank} starts from different parameters than rank 0: {listed}")
    return mistakes


def _spoken(said: Mapping[str, str], key: str) -> str:
    return said[key].strip('"') if key in said else "nothing"


def _rest(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
