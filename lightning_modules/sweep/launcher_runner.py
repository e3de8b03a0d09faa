"""Runs behind one of Hydra's launchers: Slurm, Ray, joblib and others."""

import os
import queue
import threading
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

DEFAULT_PARALLEL = 256  # at a time, where nobody says how many: what waits, waits in the queue of the cluster


class LauncherRunner:
    """Hands trials to ``launcher.launch``, which returns when they have ended.

    Args:
        at_a_time: how many it has at once; None leaves that to what is behind the launcher.
    """

    def __init__(self, launcher: Any, at_a_time: int | None) -> None:
        self._launcher, self._at_a_time = launcher, at_a_time or DEFAULT_PARALLEL
        _start_ray(launcher)
        self._batch: list[tuple[int, list[str]]] = []
        self._busy: set[int] = set()
        self._ended: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def free_slots(self) -> int:
        return self._at_a_time - self.busy()

    def busy(self) -> int:
        return len(self._busy)

    def submit(self, number: int, overrides: Sequence[str]) -> None:
        self._busy.add(number)
        self._batch.append((number, list(overrides)))

    def wait(self, seconds: float) -> list[tuple[int, str | None]]:
        """Hand over what was submitted; return the runs that have ended since, waiting so long for one."""
        batch, self._batch = self._batch, []
        for job in batch:  # one by one: `launch` forgets a whole batch over one job that died
            threading.Thread(target=self._launch, args=([job],), daemon=True).start()
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        self._busy -= {number for number, _ in ended}
        return ended

    def _launch(self, part: list[tuple[int, list[str]]]) -> None:
        said: str | None = None
        try:
            answers = self._launcher.launch([overrides for _, overrides in part], initial_job_idx=part[0][0])
            says = [_error_of(one) for one in answers]
        except BaseException as error:  # of a launcher: it ends its jobs, not the sweep
            says = [f"{type(error).__name__}: {error}"] * len(part)
        for (number, _), said in zip(part, says, strict=True):
            self._ended.put((number, said))

    def end(self) -> None:
        """A launcher has no word for this: its runs end with their epoch, as the sweep's stop file says."""


def _start_ray(launcher: Any) -> None:
    """Start Ray, or join it, where the launcher is Ray's: here, in the main thread.

    The launcher itself would do so in the thread of the first run; Ray's processes end with the thread that started them,
    and two threads start it twice.
    """
    settings = getattr(launcher, "ray_cfg", None)
    if settings is None:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing to anybody
    import ray

    if not ray.is_initialized():
        arguments: Any = OmegaConf.to_container(settings.init, resolve=True)
        ray.init(**arguments)


def _error_of(job_return: Any) -> str | None:
    try:
        value = job_return.return_value
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return value if isinstance(value, str) else None
