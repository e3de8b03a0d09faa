"""Trials behind one of Hydra's launchers: Slurm, Ray, joblib and others; and requeueing when Slurm preempts a job."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from lightning_modules.config.plain import to_plain
from lightning_modules.config.signals import SignalReceived, raise_or_defer

DEFAULT_PARALLEL = 256  # trials at a time by default: those that cannot run yet wait in the queue of the cluster


class LauncherRunner:
    """Passes trials to ``launcher.launch``, which returns when they have ended.

    Args:
        at_a_time: how many it gets at once; None leaves that to the cluster.
    """

    def __init__(self, launcher: Launcher, at_a_time: int | None) -> None:
        self._launcher, self._at_a_time = launcher, at_a_time or DEFAULT_PARALLEL
        _start_ray(launcher)
        self._running: set[int] = set()
        self._ended: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def free_slots(self) -> int:
        return self._at_a_time - len(self._running)

    def submit(self, number: int, overrides: Sequence[str]) -> None:
        self._running.add(number)  # launched one by one: `launch` loses a whole batch when one job dies
        threading.Thread(target=self._launch, args=(number, list(overrides)), daemon=True).start()

    def wait(self, seconds: float) -> list[tuple[int, str | None]]:
        """The trials that ended, as (number, error or None); blocks that long if there is none."""
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        self._running -= {number for number, _ in ended}
        return ended

    def _launch(self, number: int, overrides: list[str]) -> None:
        try:
            (returned,) = self._launcher.launch([overrides], initial_job_idx=number)
            message = _error_of(returned)
        except BaseException as error:  # of a launcher: it ends its jobs, not the sweep
            message = f"{type(error).__name__}: {error}"
        self._ended.put((number, message))

    def terminate(self) -> None:
        """Nothing: launchers cannot end jobs. The runs end with their epoch, because of the sweep's stop file."""


def _start_ray(launcher: Launcher) -> None:
    """Start or join Ray in the main thread, if the launcher is Ray's.

    The launcher would do so in the thread of the first trial: Ray's processes end with the thread that started them, and
    two threads start it twice.
    """
    settings = getattr(launcher, "ray_cfg", None)
    if settings is None:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    import ray

    if not ray.is_initialized():
        ray.init(**to_plain(settings.init))


def _error_of(job_return: JobReturn) -> str | None:
    try:
        value = job_return.return_value
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return value if isinstance(value, str) else None


_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def requeue_on_preemption() -> Iterator[None]:
    """Let submitit requeue this job when Slurm signals preemption, after its run has been closed as KILLED.

    submitit would do so at once, in the middle of a step, and Slurm would end the process before the run is closed.
    Lightning would write a checkpoint of its own on SIGUSR1. Only rank 0 reacts; Slurm ends the others. Without submitit,
    nothing changes.
    """
    requeue = preemption_handler()
    if requeue is None:
        yield
        return
    own, first = os.getpid(), os.environ.get("SLURM_PROCID", "0") == "0"

    def handler(number: int, frame: FrameType | None) -> None:
        if first and os.getpid() == own:  # not in a rank that was forked from here
            for other in _SIGNALS:
                signal.signal(other, signal.SIG_IGN)  # a second signal does not interrupt the shutdown
            raise_or_defer(number)

    for number in _SIGNALS:
        signal.signal(number, handler)
    try:
        yield
    except SignalReceived as killed:
        if killed.signal_number not in _SIGNALS:
            raise
        requeue(killed.signal_number, None)  # ends this process, or raises if the job has used up its time
        raise


def preemption_handler() -> Callable[[int, FrameType | None], object] | None:
    """The handler that submitit has set for Slurm's signal before a job loses its place; None outside of its Slurm jobs.

    We close the run first and then call it: it would put the job back into the queue at once, in the middle of a step.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    found = signal.getsignal(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")))
    return found if callable(found) else None
