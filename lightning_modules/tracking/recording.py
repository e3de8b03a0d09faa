"""How a run ends in the store: FINISHED, KILLED by a signal, else FAILED."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lightning_modules.killed import Killed, Stopped, kill
from lightning_modules.tracking.record import Record


@contextlib.contextmanager
def recording(record: Record) -> Iterator[Record]:
    """Give the run the status of how the block ends: FINISHED, KILLED by a signal or with its sweep, else FAILED."""
    with signals_raise():
        try:
            yield record
        except (Killed, KeyboardInterrupt):
            record.finish("KILLED")
            raise
        except Stopped as stopped:
            record.send({"do": "tags", "tags": {"touchstone.ended": str(stopped)}})
            record.finish("KILLED")
            raise
        except BaseException as error:
            record.finish("FAILED", error)
            raise
    record.finish("FINISHED")


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Killed`, so that every ``finally`` on the way out is run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second Ctrl-C ends it at once
        kill(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
