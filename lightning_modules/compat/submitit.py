"""What we need of submitit (Slurm jobs) beyond its public interface."""

import os
import signal
from collections.abc import Callable
from typing import Any


def preemption_handler() -> Callable[[int, Any], Any] | None:
    """The handler that submitit has set for Slurm's signal before a job loses its place; None outside of its Slurm jobs.

    We close the run first and then call it: it would put the job back into the queue at once, in the middle of a step.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    found = signal.getsignal(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")))
    return found if callable(found) else None
