"""Verify before training that all ranks agree: number of processes, config, data, weights and torch version."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.config.errors import UserError
from lightning_modules.config.flatten import flatten
from lightning_modules.data.batch_sampler import BatchSampler

# May differ between ranks: only rank 0 records, and nodes may have the data in different folders.
RANK_SPECIFIC_KEYS = (
    "tracking", "sweep", "search", "claim", "name", "overrides", "choices", "data.root", "data.cache_dir",
)  # fmt: skip
_MAX_SHOWN = 6  # differences listed in a message
_Value = TypeVar("_Value")


def verify_ranks_agree(
    model: nn.Module,
    world_size: int,
    device: torch.device,
    config: Mapping[str, object] | None = None,
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
    sizes = _all_gather(world_size)
    reports = _all_gather(
        {"config": _hash(settings), "weights": _hash(weights), "data fingerprint": data, "torch": torch.__version__}
    )
    mistakes = _world_size_errors(int(count), sizes)
    for rank, report in enumerate(reports):
        for key in ("data fingerprint", "torch"):
            if report[key] != reports[0][key]:
                mistakes.append(f"rank {rank} has {key} {report[key]}, rank 0 {reports[0][key]}")
    # all ranks have the same reports, so either all or none enter the next collectives
    if len({report["config"] for report in reports}) > 1:
        every = _all_gather(settings)
        for rank, keys in _differing_keys(every):
            shown = [f"{key}={_shown(every[rank], key)} (rank 0: {_shown(every[0], key)})" for key in keys]
            mistakes.append(f"rank {rank} has {_listed(shown)}")
    if len({report["weights"] for report in reports}) > 1:
        for rank, names in _differing_keys(_all_gather(weights)):
            mistakes.append(f"rank {rank} starts from different parameters than rank 0: {_listed(names)}")
    if mistakes:
        raise UserError("The ranks disagree:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def verify_equal_batch_counts(loader: object, limit: int | float = 1.0) -> None:
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
        count = -1
    counts = _all_gather(count)
    if -1 in counts:
        return
    listed = ", ".join(f"rank {rank} has {count}" for rank, count in enumerate(counts))
    if len(set(counts)) > 1:
        raise UserError(
            f"The ranks have different numbers of batches per epoch and would deadlock: {listed}; "
            "use data.drop_last=true or trainer.limit_train_batches=N"
        )
    if not max(counts):
        raise UserError(
            f"Too few training samples for a full batch on each rank ({listed}): use data.drop_last=false, "
            "a smaller data.batch_size, or fewer trainer.devices"
        )


def _num_batches(loader: object) -> int:
    """Batches per epoch; with our `BatchSampler` one item of the loader may hold several."""
    sampler = getattr(loader, "sampler", None)
    return -(-sampler.num_samples // sampler.batch_size) if isinstance(sampler, BatchSampler) else len(loader)  # type: ignore[arg-type]


def flatten_config(config: Mapping[str, object]) -> dict[str, str]:
    """Leaves of the config as text by dotted key, without keys that may differ between ranks."""
    return {
        key: json.dumps(value, default=str)
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in RANK_SPECIFIC_KEYS)
    }


def weight_hashes(model: nn.Module) -> dict[str, str]:
    """Sha256 of each parameter and buffer by name, except shards and meta tensors."""
    hashes = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not isinstance(tensor, DTensor) and not tensor.is_meta:
            plain = tensor.detach().cpu().contiguous().flatten()
            hashes[name] = hashlib.sha256(plain.view(torch.uint8).numpy().data).hexdigest() if plain.numel() else ""
    return hashes


def _hash(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _all_gather(value: _Value) -> list[_Value]:
    """The value of each rank, in rank order."""
    gathered: list[_Value] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _world_size_errors(joined: int, expected: Sequence[int]) -> list[str]:
    ranks = {
        size: [str(rank) for rank, own in enumerate(expected) if own == size] for size in expected if size != joined
    }
    return [
        f"trainer.devices: {joined} processes joined, but {size} were expected (by rank {', '.join(by)})"
        for size, by in ranks.items()
    ]


def _differing_keys(every: Sequence[Mapping[str, str]]) -> list[tuple[int, list[str]]]:
    """Ranks whose values differ from those of rank 0, with the keys."""
    first = every[0]
    keys = [
        (rank, [key for key in {**first, **own} if own.get(key) != first.get(key)]) for rank, own in enumerate(every)
    ]
    return [(rank, differing) for rank, differing in keys if differing]


def _shown(values: Mapping[str, str], key: str) -> str:
    return values[key].strip('"') if key in values else "nothing"


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - _MAX_SHOWN
    return ", ".join(items[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
