"""How a run ends in the store: FINISHED, KILLED by a signal, else FAILED."""

import contextlib
from collections.abc import Callable, Iterator

import pytorch_lightning as pl

from lightning_modules.config.signals import (
    RunStopped,
    SignalReceived,
    defer_signals,
    raise_if_received,
    received_signal,
    signals_as_exceptions,
)
from lightning_modules.tracking.record import Record


@contextlib.contextmanager
def record_run(open_record: Callable[[], Record]) -> Iterator[Record]:
    """Open the record, and give the run the status of how the block ends.

    FINISHED, KILLED by a signal or with its sweep, else FAILED. A signal waits while the record is opened: there is no
    moment in which the run exists and nothing would close it.
    """
    record: Record | None = None
    with signals_as_exceptions():
        try:
            with defer_signals():
                record = open_record()
            yield record
            raise_if_received()
        except RunStopped as stopped:
            if record:
                record.send({"do": "tags", "tags": {"touchstone.ended": str(stopped)}})
                _finish(record, "KILLED")
            raise
        except BaseException as error:
            if record and (isinstance(error, SignalReceived | KeyboardInterrupt) or received_signal()):
                _finish(record, "KILLED")
            elif record:
                _finish(record, "FAILED", error)
            raise
        _finish(record, "FINISHED")


def _finish(record: Record, status: str, error: BaseException | None = None) -> None:
    with defer_signals():  # a second signal must not leave the run RUNNING
        record.finish(status, error)


class StopOnSignal(pl.Callback):
    """Ends the run at its next batch where Python has swallowed what the handler of a signal raised."""

    def on_train_batch_start(self, *_: object) -> None:
        raise_if_received()

    def on_validation_batch_start(self, *_: object) -> None:
        raise_if_received()

    def on_test_batch_start(self, *_: object) -> None:
        raise_if_received()
