"""What a process has used of the machine: CPU time and memory, of its workers too once they have ended."""

import resource
import sys

_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def cpu_seconds() -> float:
    """CPU time of this process and of its workers that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory_bytes() -> int:
    """The most memory that this process had, without its workers."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
