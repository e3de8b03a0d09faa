"""What the ranks of a job leave in its store: by which process each is seen to live, and why it ends."""

import contextlib
import json
import platform
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch.distributed as dist

from lightning_modules.compat.torch import default_store


@dataclass(frozen=True)
class ExitReason:
    """What a rank leaves in the job's store before it ends: a mistake, or the signal that ends it."""

    text: str
    signal: int | None = None


def register_process(rank: int) -> None:
    """Tell the other ranks of this machine by which process they see whether this rank lives."""
    if dist.is_initialized():
        me = psutil.Process()
        _store().set(f"touchstone/process/{rank}", json.dumps([platform.node(), me.pid, me.create_time()]))


def _store() -> Any:
    return default_store()


def post_exit_reason(rank: int, word: ExitReason) -> None:
    """Leave word of the end of `rank`."""
    with contextlib.suppress(RuntimeError, ValueError):  # the store is gone with the first rank, or was not there yet
        _store().set(f"touchstone/word/{rank}", json.dumps(asdict(word)))


def collect_exit_reasons(world_size: int) -> dict[int, ExitReason] | None:
    """What the ranks have said, or None where the store is gone."""
    try:
        store = _store()
        keys = {rank: f"touchstone/word/{rank}" for rank in range(world_size)}
        return {rank: ExitReason(**json.loads(store.get(key))) for rank, key in keys.items() if store.check([key])}
    except (RuntimeError, ValueError):
        return None


def dead_ranks(strategy: Any) -> dict[int, tuple[int, int | None]]:
    """Ranks of this machine that have ended without a word of a signal: (process, the signal where it is known)."""
    words = collect_exit_reasons(strategy.world_size)
    if words is None:
        return {}
    procs = list(getattr(strategy.launcher, "procs", []))
    codes = {process.pid: process.poll() for process in procs if hasattr(process, "poll")}
    store, found = _store(), {}
    for rank in set(range(strategy.world_size)) - {strategy.global_rank, *words}:
        key = f"touchstone/process/{rank}"
        if not store.check([key]):
            continue
        machine, pid, created = json.loads(store.get(key))
        if machine == platform.node() and not _is_alive(pid, created):
            found[rank] = pid, -codes[pid] if (codes.get(pid) or 0) < 0 else None
    return found


def _is_alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def other_rank_failed(strategy: Any) -> bool:
    """Whether the signal that ends this rank comes from a launcher that has seen another one fail."""
    if not dist.is_initialized():
        return False
    said = collect_exit_reasons(strategy.world_size) or {}
    return any(word.signal is None for word in said.values()) or bool(dead_ranks(strategy))
