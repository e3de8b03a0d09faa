"""Whether the process of a run that says RUNNING is still there."""

import os
import platform
import time
from collections.abc import Mapping

WORKING_DIRECTORY = "touchstone.working_directory"  # the tag: relative paths of the run's config are relative to it
HEARTBEAT_SECONDS = 30.0  # between two signs of life of a run that another machine watches


def process_tags() -> dict[str, str]:
    """The tags by which `is_alive` finds this process."""
    import psutil

    return {
        "touchstone.host": platform.node(),
        "touchstone.pid": str(os.getpid()),
        "touchstone.process_started": str(psutil.Process().create_time()),
    }


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process of a RUNNING run lives: by its number on this machine, elsewhere by its last sign of life."""
    pid = int(tags.get("touchstone.pid", 0))
    if tags.get("touchstone.host") != platform.node():
        return time.time() - float(tags.get("touchstone.heartbeat", 0)) < 6 * HEARTBEAT_SECONDS
    if pid in (0, os.getpid()):
        return False
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    # another process may have got the number since
    return abs(started - float(tags.get("touchstone.process_started", started))) < 1.0
