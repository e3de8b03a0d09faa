"""Trials as processes of this machine, forked from one that has already imported torch, Lightning and MLflow."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TypeVar

import psutil

from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived, signals_as_exceptions
from lightning_modules.strategy.launch.environment import RANK_VARIABLES, Slot

T = TypeVar("T")
_SERVER_DIED = 255  # multiprocessing's exit code of a process whose forkserver is gone
SAFE_PATH, PRELOAD_MARK = "PYTHONSAFEPATH", "touchstone"  # preload.py removes it
PRELOAD_MODULES = ["lightning_modules.sweep.preload"]  # by the forkserver
TERMINATE_TIMEOUT_S = 10.0  # between SIGTERM and SIGKILL


@dataclass
class _TrialProcess:
    process: ForkServerProcess
    slot: Slot
    answer: Connection

    def has_ended(self) -> bool:
        """Whether the process is gone: according to the forkserver, or to the system if the forkserver died."""
        if self.process.exitcode != _SERVER_DIED:
            return self.process.exitcode is not None
        try:
            return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def start_forkserver() -> ForkServerContext:
    """Start the forkserver unless it is running; its imports take seconds, in parallel to the caller."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD_MODULES)
    resource_tracker.ensure_running()  # it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the forkserver starts like this, until it ignores it
    try:
        with _safe_import_path():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    return context


@contextlib.contextmanager
def _safe_import_path() -> Iterator[None]:
    """Keep the current folder off the forkserver's path: Python 3.11 would import from there, even from another clone."""
    if SAFE_PATH in os.environ:
        yield
        return
    os.environ[SAFE_PATH] = PRELOAD_MARK
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]


class ProcessPool:
    """At most ``len(slots)`` processes at a time; one that crashes affects no other trial.

    Args:
        logs: the folder for the output of the trials, a file each.
    """

    def __init__(self, slots: Sequence[Slot], logs: Path) -> None:
        self._free = list(slots)
        self._logs = logs
        self._jobs: dict[int, _TrialProcess] = {}
        self._context = start_forkserver()

    def free_slots(self) -> int:
        return len(self._free)

    def submit(self, number: int, overrides: Sequence[str]) -> None:
        """Start trial `number` with these overrides."""
        from lightning_modules.sweep.trial_job import trial_process_main

        log = self._logs / f"{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        slot = self._free.pop(0)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._start(trial_process_main, (list(overrides), slot, str(log)), theirs)
        self._jobs[number] = _TrialProcess(process, slot, ours)

    def _start(
        self, function: Callable[..., object], arguments: tuple[object, ...], answer: Connection
    ) -> ForkServerProcess:
        for attempt in range(2):
            environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
            process = self._context.Process(target=_child_main, args=(environment, answer, function, arguments))
            try:
                process.start()
                break
            except (EOFError, ConnectionError) as error:  # the forkserver died: the next start creates another
                if attempt:
                    raise UserError(
                        "the forkserver of the trials ended twice while it started: its error is printed above; if there is "
                        "none, the system killed it, probably for lack of memory"
                    ) from error
        answer.close()
        return process

    def wait(self, seconds: float) -> list[tuple[int, str | None]]:
        """The trials that ended, as (number, error of the process or None); blocks that long if there is none."""
        watched = [job.process.sentinel for job in self._jobs.values() if job.process.exitcode is None]
        if watched:
            wait(watched, seconds)
        else:  # nothing to wait for
            time.sleep(seconds)
        ended = []
        for number, job in list(self._jobs.items()):
            if job.has_ended():
                _kill_group(job, signal.SIGKILL)  # ranks that it left behind
                self._free.append(job.slot)
                del self._jobs[number]
                ended.append((number, _received_error(job) or describe_exit(job.process.exitcode)))
        return ended

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Return `function(*arguments)` (a plain value), run in a forked process. Raises RuntimeError if that dies."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._start(function, arguments, theirs)
        try:
            return ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(describe_exit(process.exitcode) or "the process returned nothing") from None
        finally:
            process.join()

    def terminate(self) -> None:
        """End all trials now: each can close its record, and is killed if that takes too long."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for job in self._jobs.values():
                _kill_group(job, number)
            until = time.monotonic() + TERMINATE_TIMEOUT_S
            while time.monotonic() < until and not all(job.has_ended() for job in self._jobs.values()):
                time.sleep(0.05)


def _kill_group(job: _TrialProcess, number: int) -> None:
    """Send a signal to a trial and to all ranks that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if job.process.pid:
            os.killpg(job.process.pid, number)


def _received_error(job: _TrialProcess) -> str | None:
    """The error that the trial sent at its end, or None."""
    with contextlib.suppress(EOFError, OSError):
        if job.answer.poll():
            return job.answer.recv()
    return None


def _child_main(
    environment: dict[str, str], answer: Connection, function: Callable[..., object], arguments: Sequence[object]
) -> None:
    """In the new process: its own session, away from the terminal's signals, with the sweep's current environment."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    try:
        with signals_as_exceptions():
            result = function(*arguments)
    except SignalReceived as killed:
        sys.exit(128 + killed.signal_number)
    with contextlib.suppress(OSError):  # the sweep was killed
        answer.send(result)
    answer.close()
    sys.stdout.flush()


def describe_exit(code: int | None) -> str | None:
    """Describe a process's exit code; None if it succeeded."""
    if not code:
        return None
    number = -code if code < 0 else code - 128
    if number in list(signal.Signals):
        hint = ", probably for lack of memory" if number == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(number).name}{hint}"
    return f"its process exited with code {code}"
