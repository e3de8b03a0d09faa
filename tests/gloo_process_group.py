"""Real processes for the tests of strategies: forked, joined by gloo on the loopback, and gone afterwards."""

import os
import socket
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """What ``function(rank, *args)`` returns on each rank; raises what a rank raised."""
    with tempfile.TemporaryDirectory() as folder:  # not a pipe, which is full after 64 kB
        started = (function, args, world_size, free_port(), folder)
        mp.start_processes(_run_rank, args=started, nprocs=world_size, start_method="fork")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world_size)]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_rank(rank: int, function: Callable[..., Any], args: Any, world_size: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=30))
    try:
        torch.save(function(rank, *args), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()
