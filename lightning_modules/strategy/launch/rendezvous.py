"""Ranks that torchrun has started again meet at a new port: the store of its agent still holds the addresses of the dead."""

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from lightning_modules.compat.torch import may_restart, meet_at_port
from lightning_modules.config.errors import UserError

_POLL_S = 0.02


def renegotiate_port(timeout_s: float = 600.0) -> None:
    """Let all ranks of this attempt take one free port of the first rank's machine for MASTER_PORT.

    torchrun's agent keeps one store for all attempts, in which the ranks would look each other up; one that is early
    finds the address of a rank that is gone. Ranks do not know the number of the attempt (a machine that takes the place
    of a lost one counts anew), so each asks under a number of its own, until the first rank that lives has answered.

    Raises UserError where a rank does not come within `timeout_s`.
    """
    if not may_restart():
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    deadline = time.monotonic() + timeout_s
    new = _serve_port(store, world_size, deadline) if rank == 0 else _request_port(store, rank)
    meet_at_port(new)


def _request_port(store: dist.Store, rank: int) -> int:
    """Wait for the first rank's answer, and confirm it."""
    mine = uuid.uuid4().hex
    store.set(f"touchstone/ask/{rank}", mine)
    try:
        port, meeting = store.get(f"touchstone/answer/{mine}").decode().split()
    except dist.DistError as error:
        raise UserError(f"torchrun: rank {rank} waited in vain for the first rank ({error})") from error
    store.set(f"touchstone/took/{meeting}/{rank}", "")
    return int(port)


def _serve_port(store: dist.Store, world_size: int, deadline: float) -> int:
    """Choose a port and tell it to whoever asks, until all other ranks have confirmed it."""
    meeting, port = uuid.uuid4().hex, _free_port()
    answered: dict[int, str] = {}
    missing = set(range(1, world_size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"touchstone/took/{meeting}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"touchstone/ask/{rank}"]):
                number = store.get(f"touchstone/ask/{rank}").decode()
                if answered.get(rank) != number:  # the first one may be of a rank that is gone
                    store.set(f"touchstone/answer/{number}", f"{port} {meeting}")
                    answered[rank] = number
        if missing and time.monotonic() > deadline:
            raise UserError(
                f"torchrun: of {world_size} ranks these did not come: {', '.join(map(str, sorted(missing)))}"
            )
        time.sleep(_POLL_S)
    return port


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
