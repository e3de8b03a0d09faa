"""The processes of a run: started as Lightning does, watched so that the end of one is told, not only followed."""

import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from lightning_modules.compat.lightning import (
    MultiProcessingLauncher,
    SubprocessScriptLauncher,
    launched_strategy,
    start_other_ranks,
)
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.launch.failures import port_in_use_message, run_rank

_POLL_S, _TERMINATE_AFTER_S, _KILL_AFTER_S = 0.5, 8.0, 12.0  # together less than half a minute


class ForkLauncher(MultiProcessingLauncher):
    """Ranks that are forked or spawned, and what they agree on when one fails."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        told = functools.partial(run_rank, launched_strategy(self), True, function)
        return super().launch(told, *args, trainer=trainer, **kwargs)


class SubprocessLauncher(SubprocessScriptLauncher):
    """Ranks that are processes of their own; this one, the first, started them or was started beside them.

    Lightning kills the first rank, which records, five seconds after another one has ended: here it may tell so.
    """

    def __init__(self, strategy: Any) -> None:
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self._strategy = strategy

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            start_other_ranks(self)
        over = threading.Event()
        if self.procs:
            threading.Thread(target=_watch_ranks, args=(self.procs, over), daemon=True).start()
        try:
            return run_rank(self._strategy, False, function, *args, **kwargs)
        finally:
            over.set()


def _watch_ranks(processes: Sequence[Any], over: threading.Event) -> None:
    """End this process, one way or another, where it does not notice by itself that a rank has failed."""
    while not any(process.poll() for process in processes):
        if over.wait(_POLL_S) or all(process.poll() == 0 for process in processes):
            return
    for wait_s, number in ((_TERMINATE_AFTER_S, signal.SIGTERM), (_KILL_AFTER_S, signal.SIGKILL)):
        if over.wait(wait_s):
            return
        os.kill(os.getpid(), number)


def require_free_port(strategy: Any) -> None:
    """Raise UserError where MASTER_PORT is given, this process is to listen there, and another one does."""
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
            raise UserError(f"MASTER_PORT={port}: a number of 1 to 65535 is wanted") from None
        except OSError:
            raise UserError(port_in_use_message(port)) from None
