"""Open the record of a run, and close it with its status: FINISHED, KILLED by a signal, else FAILED.

A resume that fails before its first step leaves the run as it was.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.hooks import RemovableHandle

from lightning_modules.compat.mlflow import active_run
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.signals import (
    RunStopped,
    SignalReceived,
    defer_signals,
    raise_if_received,
    received_signal,
    signals_as_exceptions,
)
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.outbox import work_folder
from lightning_modules.tracking.params import default_run_name
from lightning_modules.tracking.record import Record, start_run
from lightning_modules.tracking.resume import ResumedRun, is_checkpoint_file, reopen_run
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import ENDED_TAG, INIT_FROM_TAG, STUDY_TAG

# artifacts that every start overwrites
_CHANGING_FILES = ("config/*", "environment/*", "code/*", "log.txt", "traceback.txt")


def open_record(
    store: Store,
    config: PlainDict,
    data: Mapping[str, object],
    resumed: ResumedRun | None,
    tags: Mapping[str, str],
    settings: PlainDict | None = None,
) -> Record:
    """Create the run, or reopen the resumed one, and describe it.

    Args:
        config: resolved, as plain values.
        data: its name, fingerprint and sizes; empty for a loop of the user's, with a config of any keys and no model.
        settings: of the record, by default those of the config.
    """
    before, settings = None, settings or {**config["tracking"], "name": default_run_name(config)}
    if data and config.get("study") is not None:
        tags = {**tags, STUDY_TAG: str(config["study"])}
    if resumed:
        run_id, model_id = resumed.run_id, resumed.model_id
        before = RunSnapshot(store, run_id)
        reopen_run(store, run_id, tags)
    else:
        origin = {}
        if data and (parent := str(config.get("init_from") or "")):
            is_file = is_checkpoint_file(parent)
            origin = {INIT_FROM_TAG: parent if is_file else find_run(store, parent).info.run_id}
        names = settings["experiment"], settings["name"]
        run_id, model_id = start_run(store, *names, {**tags, **origin}, config if data else None)
    record = None
    try:
        record = Record(store, run_id, model_id, settings, before)
        if resumed and resumed.drift:
            print(f"{resumed.wanted}: resuming with accepted differences: {resumed.accepted}", flush=True)
            logging.getLogger("touchstone").warning("resumed with accepted differences: %s", resumed.accepted)
        described = {key: value for key, value in config.items() if key != "overrides" or not data}
        record.describe(described, config.get("overrides", []) if data else [], data)
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
            with active_run(record.store.uri, record.run):
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


class RunSnapshot(pl.Callback):
    """Status, end time, tags and descriptive artifacts of a run; as a callback it detects the first optimizer step.

    Ranks may be forked, so the flag is in shared memory.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        run = store.client.get_run(run_id)
        self.run_id, self.status, self.end_time = run_id, run.info.status, run.info.end_time
        self.tags = dict(run.data.tags)
        local, work = local_folder(run.info.artifact_uri), work_folder(run_id)
        self.folder = local or work / "run"
        self.scratch = None if local or work.exists() else work  # a folder that only the resume creates
        self.files = {path: path.read_bytes() for path in self._files()}
        self._stepped = torch.zeros(1, dtype=torch.bool).share_memory_()
        self._handles: list[RemovableHandle] = []

    def _files(self) -> set[Path]:
        return {path for pattern in _CHANGING_FILES for path in self.folder.glob(pattern) if path.is_file()}

    @property
    def stepped(self) -> bool:
        """Whether the resumed run has trained."""
        return bool(self._stepped)

    def mark(self, *_: object) -> None:
        """Note that the resumed run has trained: from now on its end is recorded."""
        self._stepped[0] = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizers = [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]
        self._handles = [optimizer.register_step_post_hook(self.mark) for optimizer in optimizers]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def restore(self, store: Store) -> bool:
        """Restore the run, if it was not trained since; return whether it was restored."""
        if self.stepped or self.status == "RUNNING":  # RUNNING: its process was killed, so there is no end to restore
            return False
        with contextlib.suppress(Exception):  # the caller records the failure if the store is unreachable
            for path in self._files() - self.files.keys():
                path.unlink()
            for path, content in self.files.items():
                path.write_bytes(content)
            if self.scratch is not None:
                shutil.rmtree(self.scratch, ignore_errors=True)
            now = store.client.get_run(self.run_id).data.tags
            for key in now.keys() - self.tags.keys():
                store.client.delete_tag(self.run_id, key)
            for key, value in self.tags.items():
                if now.get(key) != value:
                    store.client.set_tag(self.run_id, key, value)
            store.client.set_terminated(self.run_id, self.status, self.end_time)
            text = f"the resume failed before its first step; the run is unchanged ({self.status})"
            print(f"run {self.run_id}: {text}", file=sys.stderr)
            return True
        return False
