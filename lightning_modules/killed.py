"""The exceptions that end a run early on purpose, and the places in which a signal has to wait."""

import contextlib
from collections.abc import Iterator


class Killed(BaseException):
    """A signal ended the run; not an Exception, so that nothing on the way out takes it for a fault."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by signal {signal_number}")
        self.signal_number = signal_number


class Stopped(Exception):  # noqa: N818 # nothing went wrong
    """The run ended at the end of an epoch because it was told to: its checkpoint is written, nothing was tested.

    The one argument says why: ``PRUNED`` by a search, or ``STOPPED`` with its sweep.
    """


_waiting: list[int] = []  # signals that came within `undisturbed`
_depth = 0


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold a signal back until the block is done: a half-closed transaction would lock the store against its own end."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _waiting and not _depth:
        raise Killed(_waiting.pop())


def kill(signal_number: int) -> None:
    """Raise `Killed`, now or at the end of the block that must not be disturbed."""
    if _depth:
        _waiting.append(signal_number)
    else:
        raise Killed(signal_number)
