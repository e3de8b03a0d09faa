"""The port at which ranks meet: it must be free, and after a restart by torchrun it must be a new one."""

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules.compat.torch import may_restart, meet_at_port
from lightning_modules.config.errors import UserError

_POLL_S = 0.02


def require_free_port(strategy: DDPStrategy) -> None:
    """Raise UserError if MASTER_PORT is set, this process is to listen on it, and another program does."""
    port = os.environ.get("MASTER_PORT")
    environment = strategy.cluster_environment
    if not port or environment is None or environment.creates_processes_externally or dist.is_initialized():
        return
    if environment.node_rank() > 0 or strategy.num_processes * strategy.num_nodes == 1:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
            probe.listen()
        except (ValueError, OverflowError):
            raise UserError(f"MASTER_PORT={port}: expected a number from 1 to 65535") from None
        except OSError:
            raise UserError(port_in_use_message(port), transient=True) from None


def port_in_use_message(port: int | str) -> str:
    """The message for a port on which another program listens."""
    return (
        f"MASTER_PORT={port}: another program on this machine uses that port; "
        "unset MASTER_PORT to use a free one, or choose another one"
    )


def renegotiate_port(timeout_s: float = 600.0) -> None:
    """Agree on a new MASTER_PORT, a free one of rank 0's machine, with all ranks that torchrun has restarted.

    torchrun's agent keeps one store for all attempts, which still holds the addresses of dead ranks. Ranks do not know
    the number of the attempt (a machine that replaces a lost one starts counting at 0), so each asks under an id of its
    own until the rank 0 that is alive answers.

    Raises UserError if a rank does not join within `timeout_s`.
    """
    if not may_restart():
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    deadline = time.monotonic() + timeout_s
    meet_at_port(_serve_port(store, world_size, deadline) if rank == 0 else _request_port(store, rank))


def _request_port(store: dist.Store, rank: int) -> int:
    """Wait for rank 0's answer, and confirm it."""
    request = uuid.uuid4().hex
    store.set(f"touchstone/ask/{rank}", request)
    try:
        port, attempt = store.get(f"touchstone/answer/{request}").decode().split()
    except dist.DistError as error:
        raise UserError(f"torchrun: rank {rank} timed out waiting for rank 0 ({error})", transient=True) from error
    store.set(f"touchstone/took/{attempt}/{rank}", "")
    return int(port)


def _serve_port(store: dist.Store, world_size: int, deadline: float) -> int:
    """Choose a port and send it to all ranks that ask, until all of them have confirmed it."""
    with socket.socket() as free:
        free.bind(("", 0))
        attempt, port = uuid.uuid4().hex, int(free.getsockname()[1])
    answered: dict[int, str] = {}
    missing = set(range(1, world_size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"touchstone/took/{attempt}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"touchstone/ask/{rank}"]):
                request = store.get(f"touchstone/ask/{rank}").decode()
                if answered.get(rank) != request:  # an earlier request may come from a dead rank
                    store.set(f"touchstone/answer/{request}", f"{port} {attempt}")
                    answered[rank] = request
        if missing and time.monotonic() > deadline:
            waited = ", ".join(map(str, sorted(missing)))
            raise UserError(f"torchrun: ranks {waited} of {world_size} did not join", transient=True)
        time.sleep(_POLL_S)
    return port
