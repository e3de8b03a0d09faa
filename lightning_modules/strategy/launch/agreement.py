"""Verify before training that all ranks agree: number of processes, config, data, weights and torch version."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.utilities.data import sized_len
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DistributedSampler

from lightning_modules.compat.lightning import sampler_of
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, flatten
from lightning_modules.data.batch_sampler import BatchSampler

# May differ between ranks: only rank 0 records, and nodes may have the data in different folders.
RANK_SPECIFIC_KEYS = (
    "tracking", "sweep", "search", "claim", "name", "overrides", "choices", "data.root", "data.cache_dir",
)  # fmt: skip
_COMPARED_BATCHES = 8
_END = object()  # of batches
_MAX_SHOWN = 6  # differences listed in a message
_Value = TypeVar("_Value")


def verify_ranks_agree(
    model: nn.Module, world_size: int, config: Mapping[str, object] | None = None, data: str = ""
) -> None:
    """Raise the same UserError on all ranks if they disagree. A collective: all ranks must call it.

    Args:
        world_size: number of processes that this rank's trainer expects.
        config: resolved config as plain values.
        data: fingerprint of the data, if known.
    """
    mine = {"size": world_size, "data fingerprint": data, "torch": torch.__version__}
    reports = _all_gather({**mine, "config": flatten_config(config or {}), "weights": weight_hashes(model)})
    expected, joined, mistakes = [report["size"] for report in reports], len(reports), []
    for size in dict.fromkeys(size for size in expected if size != joined):
        by = ", ".join(str(rank) for rank, own in enumerate(expected) if own == size)
        mistakes.append(f"trainer.devices: {joined} processes joined, but {size} were expected (by rank {by})")
    for rank, report in enumerate(reports):
        mistakes += _differences(rank, report, reports[0])
    if mistakes:
        raise UserError("The ranks disagree:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def _differences(rank: int, report: PlainDict, first: PlainDict) -> list[str]:
    """What a rank reported differently from rank 0."""
    found = [
        f"rank {rank} has {key} {report[key]}, rank 0 {first[key]}"
        for key in ("data fingerprint", "torch")
        if report[key] != first[key]
    ]
    here, there = ({key: text.strip('"') for key, text in part["config"].items()} for part in (report, first))
    if settings := _differing_keys(report, first, "config"):
        shown = [f"{key}={here.get(key, 'nothing')} (rank 0: {there.get(key, 'nothing')})" for key in settings]
        found.append(f"rank {rank} has {_listed(shown)}")
    if weights := _differing_keys(report, first, "weights"):
        found.append(f"rank {rank} starts from different parameters than rank 0: {_listed(weights)}")
    return found


def _differing_keys(report: PlainDict, first: PlainDict, part: str) -> list[str]:
    return [key for key in {**first[part], **report[part]} if report[part].get(key) != first[part].get(key)]


def verify_equal_batch_counts(loader: Any, limit: int | float = 1.0) -> None:
    """Raise the same UserError on all ranks if their numbers of batches per epoch differ or are all 0.

    Args:
        loader: of this rank; not checked if it has no length.
        limit: ``trainer.limit_train_batches``; an integer is a limit per rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    sampler: Any = getattr(loader, "sampler", None)
    ours = isinstance(sampler, BatchSampler)  # then one item of the loader may hold several batches
    try:
        count = -(-sampler.num_samples // sampler.batch_size) if ours else len(loader)
    except (TypeError, NotImplementedError):
        count = -1
    counts = _all_gather(min(count, limit) if isinstance(limit, int) else count)
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


def is_divided(loader: object, share: Mapping[str, int]) -> bool:
    """Whether the sampler of a loader gives this rank its `share` (``rank`` of ``num_replicas``) of the samples."""
    sampler = sampler_of(loader)
    known = isinstance(sampler, DistributedSampler) and all(getattr(sampler, key) == share[key] for key in share)
    return known or isinstance(sampler, BatchSampler)


class ComparedBatches:
    """The batches of a loader whose sampler is not known to divide the samples between the ranks.

    The first ones of all ranks are compared before any is used. In training with a loader of unknown length an epoch ends
    with the first rank that has no more batches: the others would wait for it.

    Raises UserError on all ranks if all ranks have the same batches.
    """

    def __init__(self, loader: Any, device: torch.device | None) -> None:
        """`device`: of collectives in training."""
        self._loader, self._is_compared = loader, False
        self._device = device if sized_len(loader) is None else None

    def __getattr__(self, name: str) -> Any:  # what else Lightning asks of a loader
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        first = list(itertools.islice(batches, _COMPARED_BATCHES))  # in each epoch, so that a resumed one is the same
        reports = [] if self._is_compared else _all_gather([_digest(batch) for batch in first])
        if reports and reports[0] and all(report == reports[0] for report in reports):
            raise UserError(
                f"All ranks get the same batches (the first {len(first)} are equal): an iterable data set must yield the "
                "samples of its own rank only, by torch.distributed.get_rank(), and a DistributedSampler must be made when "
                "the ranks are known; or use a map-style data set without a sampler"
            )
        self._is_compared = True
        for batch in itertools.chain(first, batches, [_END]):
            if self._device is not None:
                have_more = torch.tensor(int(batch is not _END), device=self._device)
                dist.all_reduce(have_more, dist.ReduceOp.MIN)
                batch = batch if have_more else _END
            if batch is _END:
                return
            yield batch


def _digest(batch: object) -> str:
    digest = hashlib.sha256()

    def add(tensor: Tensor) -> None:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    apply_to_collection(batch, Tensor, add, allow_frozen=True)
    return digest.hexdigest()


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


def _all_gather(value: _Value) -> list[_Value]:
    """The value of each rank, in rank order."""
    gathered: list[_Value] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - _MAX_SHOWN
    return ", ".join(items[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
