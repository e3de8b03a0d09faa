"""How ranks report why they exit: to each other through the job's store, to the process that forked them through a file."""

import contextlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules.compat.torch import default_store


@dataclass(frozen=True)
class ExitReason:
    """Why a rank exits: an error, with the optimizer step if known, or the signal that stops it."""

    message: str
    signal: int | None = None
    step: int = 0


@dataclass(frozen=True)
class Failure:
    """What a rank knows of the failure that ends the job.

    Args:
        message: for the user.
        guessed: this rank lost connection to another one that did not report why it exited.
        rank_zero_dead: rank 0, which would report the message, is gone.
        stopped: no error: the run was stopped at the end of an epoch, for the reason in `message`.
    """

    message: str
    guessed: bool = False
    rank_zero_dead: bool = False
    stopped: bool = False


def write_failure(folder: Path, local_rank: int, failure: Failure) -> None:
    """Leave `failure` for the process that forked this rank."""
    (folder / f"{local_rank}.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def read_failure(folder: Path, local_rank: int) -> Failure | None:
    """What a forked rank left before it exited, if anything."""
    file = folder / f"{local_rank}.json"
    return Failure(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def register_process(rank: int) -> None:
    """Tell the other ranks of this machine which process this rank is, so that they can see whether it is alive."""
    if dist.is_initialized():
        me = psutil.Process()
        default_store().set(f"touchstone/process/{rank}", json.dumps([platform.node(), me.pid, me.create_time()]))


def post_exit_reason(rank: int, reason: ExitReason) -> None:
    """Report to the other ranks why `rank` exits."""
    with contextlib.suppress(RuntimeError, ValueError):  # the store does not exist yet, or went with rank 0
        default_store().set(f"touchstone/exit/{rank}", json.dumps(asdict(reason)))


def collect_exit_reasons(world_size: int) -> dict[int, ExitReason] | None:
    """The posted reasons by rank, or None if the store is gone."""
    try:
        store = default_store()
        keys = {rank: f"touchstone/exit/{rank}" for rank in range(world_size)}
        return {rank: ExitReason(**json.loads(store.get(key))) for rank, key in keys.items() if store.check([key])}
    except (RuntimeError, ValueError):
        return None


def dead_ranks(strategy: DDPStrategy) -> dict[int, tuple[int, int | None]]:
    """Ranks of this machine that exited without a reason: (process id, the signal if known)."""
    reasons = collect_exit_reasons(strategy.world_size)
    if reasons is None:
        return {}
    store, dead = default_store(), {}
    for rank in set(range(strategy.world_size)) - {strategy.global_rank, *reasons}:
        key = f"touchstone/process/{rank}"
        if not store.check([key]):
            continue
        machine, pid, created = json.loads(store.get(key))
        if machine == platform.node() and not _is_alive(pid, created):
            ended = (child for child in getattr(strategy.launcher, "procs", []) if child.pid == pid)
            code = next((child.poll() or 0 for child in ended if hasattr(child, "poll")), 0)
            dead[rank] = pid, -code if code < 0 else None
    return dead


def _is_alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def other_rank_failed(strategy: DDPStrategy) -> bool:
    """Whether another rank failed, so that the signal that ends this one comes from the launcher."""
    if not dist.is_initialized():
        return False
    reasons = collect_exit_reasons(strategy.world_size) or {}
    return any(reason.signal is None for reason in reasons.values()) or bool(dead_ranks(strategy))
