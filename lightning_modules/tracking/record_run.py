"""Open the record of a run, and close it with its status: FINISHED, KILLED by a signal, else FAILED."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl

from lightning_modules.config.signals import (
    RunStopped,
    SignalReceived,
    defer_signals,
    raise_if_received,
    received_signal,
    signals_as_exceptions,
)
from lightning_modules.tracking.record import Record, start_run
from lightning_modules.tracking.resume import ResumedRun, reopen_run
from lightning_modules.tracking.resume_rollback import RunSnapshot
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import ENDED_TAG, INIT_FROM_TAG


def open_record(
    store: Store,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    resumed: ResumedRun | None,
    tags: Mapping[str, str],
) -> Record:
    """Create the run, or reopen the resumed one, and describe it.

    Args:
        config: resolved, as plain values.
        data: its name, fingerprint and sizes.
    """
    before = None
    if resumed:
        run_id, model_id = resumed.run_id, resumed.model_id
        before = RunSnapshot(store, run_id)
        reopen_run(store, run_id, tags)
    else:
        parent = config.get("init_from")
        origin = {INIT_FROM_TAG: find_run(store, str(parent)).info.run_id} if parent else {}
        run_id, model_id = start_run(store, config["tracking"]["experiment"], config["name"], {**tags, **origin})
    record = None
    try:
        record = Record(store, run_id, model_id, config["tracking"], before)
        if resumed and resumed.drift:
            print(f"{resumed.wanted}: resuming with accepted differences: {resumed.accepted}", flush=True)
            logging.getLogger("touchstone").warning("resumed with accepted differences: %s", resumed.accepted)
        described = {key: value for key, value in config.items() if key != "overrides"}
        record.describe(described, config.get("overrides", []), data)
    except BaseException as error:  # the run exists and must not stay RUNNING
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        if record is not None:
            record.finish(status, error)
        elif before is None or not before.restore(store):
            store.client.set_terminated(run_id, status)
        raise
    return record


@contextlib.contextmanager
def record_run(open_record: Callable[[], Record]) -> Iterator[Record]:
    """Open the record, and set the run's status when the block ends: FINISHED, KILLED by a signal or its sweep, or FAILED.

    Signals are deferred while the record is opened, so that a run never exists without being closed.
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
                record.send({"do": "tags", "tags": {ENDED_TAG: str(stopped)}})
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
    """Ends the run at its next batch if Python ignored the exception of a signal handler."""

    def on_train_batch_start(self, *_: object) -> None:
        raise_if_received()

    def on_validation_batch_start(self, *_: object) -> None:
        raise_if_received()

    def on_test_batch_start(self, *_: object) -> None:
        raise_if_received()
