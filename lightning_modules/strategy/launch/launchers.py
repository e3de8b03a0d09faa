"""The processes of a run: started by Lightning, watched so that the failure of one is reported and leaves none behind."""

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from lightning_modules.compat.lightning import (
    MultiProcessingLauncher,
    SubprocessScriptLauncher,
    launched_strategy,
    start_other_ranks,
)
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import RunStopped
from lightning_modules.strategy.launch.failures import rank_killed_message, run_rank
from lightning_modules.strategy.launch.rank_status import read_failure

_POLL_S, _TERMINATE_AFTER_S, _KILL_AFTER_S = 0.5, 8.0, 12.0  # together less than half a minute


class ForkLauncher(MultiProcessingLauncher):
    """Forks all ranks, and raises the failure that they agree on."""

    def launch(self, function: Callable[..., object], *args: object, trainer: Any = None, **kwargs: object) -> object:
        with tempfile.TemporaryDirectory(prefix="touchstone-ranks-") as folder:
            rank = functools.partial(run_rank, launched_strategy(self), Path(folder), function)
            try:
                return super().launch(rank, *args, trainer=trainer, **kwargs)
            except ProcessRaisedException as error:
                self._raise_reported(trainer, Path(folder), error)
            except ProcessExitedException as error:
                number = -error.exit_code if error.exit_code < 0 else max(0, error.exit_code - 128)
                message = rank_killed_message(trainer, error.error_index, error.error_pid, number)
                raise UserError(message, transient=True) from error

    def _raise_reported(self, trainer: pl.Trainer, folder: Path, error: ProcessRaisedException) -> NoReturn:
        failure = read_failure(folder, error.error_index)
        if failure is None:
            raise error
        if failure.stopped:
            raise RunStopped(failure.message) from error
        message = failure.message
        if failure.guessed:  # this process sees how the lost rank ended
            for rank, process in enumerate(self.procs):
                number = -(process.exitcode or 0)
                if number > 0 and number != signal.SIGTERM:  # which the remaining ranks were sent
                    message = rank_killed_message(trainer, rank, process.pid, number)
                    break
        raise UserError(message, transient=True) from error


class SubprocessLauncher(SubprocessScriptLauncher):
    """Ranks that are separate processes; this one, rank 0, starts the others unless a scheduler or torchrun has.

    Lightning kills rank 0, which records the run, five seconds after another rank has exited; here it can report that.
    """

    def __init__(self, strategy: DDPStrategy) -> None:
        assert strategy.cluster_environment is not None
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self._strategy = strategy

    def launch(self, function: Callable[..., object], *args: object, trainer: Any = None, **kwargs: object) -> object:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            start_other_ranks(self)
        done = threading.Event()
        if self.procs:
            threading.Thread(target=_watch_ranks, args=(self.procs, done), daemon=True).start()
        try:
            return run_rank(self._strategy, None, function, *args, **kwargs)
        finally:
            done.set()


def _watch_ranks(processes: Sequence[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """End this process if another rank has failed and this one does not notice by itself."""
    while not any(process.poll() for process in processes):
        if done.wait(_POLL_S) or all(process.poll() == 0 for process in processes):
            return
    for wait_s, number in ((_TERMINATE_AFTER_S, signal.SIGTERM), (_KILL_AFTER_S, signal.SIGKILL)):
        if done.wait(wait_s):
            return
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def terminate_ranks_on_error(trainer: pl.Trainer) -> Iterator[None]:
    """Leave no rank running after an error or a signal."""
    try:
        yield
    except BaseException as error:
        # after a UserError they wait for this rank in a collective, where a signal has no effect
        _terminate_ranks(trainer, patience_s=2.0 if isinstance(error, UserError) else 10.0)
        raise


def _terminate_ranks(trainer: pl.Trainer, patience_s: float) -> None:
    """Send SIGTERM to the processes that this one started, and SIGKILL to those that do not exit in time."""
    started = list(getattr(trainer.strategy.launcher, "procs", []))
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in started if _is_running(process)]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.join(patience_s) if isinstance(process, BaseProcess) else process.wait(patience_s)


def _is_running(process: "BaseProcess | subprocess.Popen[bytes]") -> bool:
    return process.is_alive() if isinstance(process, BaseProcess) else process.poll() is None
