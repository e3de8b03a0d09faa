"""Signals: exceptions that end a run early, and blocks in which a signal is deferred."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class SignalReceived(BaseException):
    """A signal ended the run. Not an Exception, so that no handler of errors catches it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"ended by signal {signal_number}")
        self.signal_number = signal_number


class RunStopped(Exception):  # noqa: N818 # not an error
    """The run was stopped after an epoch: its checkpoint is written, nothing was tested.

    The argument is the reason: ``PRUNED`` by a search, or ``STOPPED`` with its sweep.
    """


# within `signals_raise`; kept because Python ignores what a handler raises in `__del__` or an at-fork hook
_received: list[int] = []
_deferred: list[int] = []  # signals received within `undisturbed`
_depth = 0
_active = 0  # nesting depth of `signals_raise`


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals to the end of the block: an interrupted transaction would lock the store."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _deferred and not _depth:
        raise SignalReceived(_deferred.pop())


def raise_or_defer(signal_number: int) -> None:
    """Raise `SignalReceived`, now or at the end of the deferring block."""
    _received.append(signal_number)
    if _depth:
        _deferred.append(signal_number)
    else:
        raise SignalReceived(signal_number)


def raise_if_received() -> None:
    """Raise `SignalReceived` if a signal was received but its exception got lost."""
    if _received and _active:
        raise SignalReceived(_received[0])


def received_signal() -> int | None:
    """The first termination signal of this process, even if its exception is not raised yet."""
    return _received[0] if _received else None


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with `handler`; an ignored SIGHUP stays ignored (nohup). Main thread only.

    DataLoader workers, which inherit the handler, leave the signal to their parent process.
    """
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(number: int, frame: FrameType | None) -> None:
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
            if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # the process is exiting
                signal.signal(number, old)


def set_sigterm_action(action: signal.Handlers) -> bool:
    """Have SIGTERM end this process (SIG_DFL) or ignored from now on; return whether this is the main thread, which can."""
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, action)
    return True


def _discard_output(terminals: list[int]) -> None:
    """Discard further output: writing to a closed terminal would raise an error."""
    with contextlib.suppress(OSError):
        for descriptor in terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _signal_behind(error: BaseException | None) -> SignalReceived | None:
    """The signal that an error replaced, as where a library tidies up what the signal left half changed."""
    while error is not None and not isinstance(error, SignalReceived):
        error = error.__context__
    return error


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into the exception `SignalReceived`, so that every ``finally`` block runs."""
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if _received:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a third Ctrl-C is not deferred
        raise_or_defer(number)

    if not _active:
        _received.clear()
        _deferred.clear()
    _active += 1
    try:
        with handle_signals(handler):
            yield
    except Exception as error:
        if (received := _signal_behind(error)) is not None:
            raise received from error
        raise
    finally:
        _active -= 1
        if not _active:
            _received.clear()  # the caller got the exception
