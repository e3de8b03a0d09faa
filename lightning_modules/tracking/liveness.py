"""Liveness of runs: whether the process of a RUNNING run still exists."""

import os
import platform
import time
from collections.abc import Mapping

from lightning_modules.tracking.tags import HEARTBEAT_TAG, HOST_TAG, PID_TAG, PROCESS_STARTED_TAG

HEARTBEAT_SECONDS = 30.0  # between two heartbeats of a run that another machine watches


def process_tags() -> dict[str, str]:
    """The tags by which `is_alive` identifies this process."""
    import psutil

    return {
        HOST_TAG: platform.node(),
        PID_TAG: str(os.getpid()),
        PROCESS_STARTED_TAG: str(psutil.Process().create_time()),
    }


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process of a RUNNING run is alive: by its pid on this machine, elsewhere by its last heartbeat."""
    pid = int(tags.get(PID_TAG, 0))
    if tags.get(HOST_TAG) != platform.node():
        return time.time() - float(tags.get(HEARTBEAT_TAG, 0)) < 6 * HEARTBEAT_SECONDS
    if pid in (0, os.getpid()):
        return False
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    # another process may have the pid by now
    return abs(started - float(tags.get(PROCESS_STARTED_TAG, started))) < 1.0
