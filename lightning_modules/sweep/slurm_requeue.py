"""Slurm wants a job's place: its run is closed, then the job goes back into the queue, and goes on from there."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from lightning_modules.compat.submitit import preemption_handler
from lightning_modules.config.signals import SignalReceived, raise_or_defer

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def requeue_on_preemption() -> Iterator[None]:
    """Let submitit put this job back into the queue when Slurm signals, after its run has been closed as KILLED.

    submitit itself would do so at once, in the middle of a step, and Slurm would end the process while it says in the
    store how it ended. Lightning would write a checkpoint of its own on SIGUSR1. The first rank alone obeys; the others
    train on until Slurm ends them. Without submitit, nothing changes.
    """
    theirs = preemption_handler()
    if theirs is None:
        yield
        return
    own, first = os.getpid(), os.environ.get("SLURM_PROCID", "0") == "0"

    def handler(number: int, frame: Any) -> None:
        if first and os.getpid() == own:  # a rank that was forked from here ends with it
            for other in _SIGNALS:
                signal.signal(other, signal.SIG_IGN)  # a second one must not disturb the end
            raise_or_defer(number)

    for number in _SIGNALS:
        signal.signal(number, handler)
    try:
        yield
    except SignalReceived as killed:
        if killed.signal_number not in _SIGNALS:
            raise
        theirs(killed.signal_number, None)  # ends this process, or raises where the job has had all its time
        raise
