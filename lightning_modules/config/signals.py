"""The exceptions that end a run early on purpose, and the places in which a signal has to wait."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class SignalReceived(BaseException):
    """A signal ended the run; not an Exception, so that nothing on the way out takes it for a fault."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by signal {signal_number}")
        self.signal_number = signal_number


class RunStopped(Exception):  # noqa: N818 # nothing went wrong
    """The run ended at the end of an epoch because it was told to: its checkpoint is written, nothing was tested.

    The one argument says why: ``PRUNED`` by a search, or ``STOPPED`` with its sweep.
    """


# since `signals_raise`: Python swallows what a handler raises in `__del__` or an at-fork hook
_received: list[int] = []
_deferred: list[int] = []  # signals that came within `undisturbed`
_depth = 0
_active = 0  # blocks of `signals_raise` that this process is in


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Hold a signal back until the block is done: a half-closed transaction would lock the store against its own end."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _deferred and not _depth:
        raise SignalReceived(_deferred.pop())


def raise_or_defer(signal_number: int) -> None:
    """Raise `Killed`, now or at the end of the block that must not be disturbed."""
    _received.append(signal_number)
    if _depth:
        _deferred.append(signal_number)
    else:
        raise SignalReceived(signal_number)


def raise_if_received() -> None:
    """Raise `Killed` where a signal came and nothing has ended the run since: the exception was swallowed."""
    if _received and _active:
        raise SignalReceived(_received[0])


def received_signal() -> int | None:
    """The first signal that asked this process to end, whether or not its exception is still on its way."""
    return _received[0] if _received else None


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP by `handler`; SIGHUP stays ignored where it is (nohup). Main thread only.

    Workers of a data loader, which inherit the handler, leave the signal to the process that started them.
    """
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(number: int, frame: Any) -> None:
        if multiprocessing.current_process().daemon:
            return
        if number == signal.SIGHUP:
            _discard_output(terminals)
        handler(number, frame)

    handled = [
        number
        for number in TERMINATION_SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT
    ]
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _discard_output(terminals: list[int]) -> None:
    """Send further output nowhere: writing to a terminal that has hung up would raise an error."""
    with contextlib.suppress(OSError):
        for descriptor in terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Killed`, so that every ``finally`` on the way out is run."""
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: Any) -> None:
        if _received:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a third Ctrl-C waits for nothing
        raise_or_defer(number)

    if not _active:
        _received.clear()
        _deferred.clear()
    _active += 1
    try:
        with handle_signals(handler):
            yield
    finally:
        _active -= 1
        if not _active:
            _received.clear()  # whoever called has been told
