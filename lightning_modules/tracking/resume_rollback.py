"""Snapshot of a run before it is resumed; restored if the resume fails before its first step."""

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.outbox import work_folder
from lightning_modules.tracking.store import Store

_CHANGING_FILES = (
    "config/*",
    "environment/*",
    "code/*",
    "log.txt",
    "traceback.txt",
)  # artifacts that every start overwrites


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
        self._handles: list[Any] = []

    def _files(self) -> set[Path]:
        return {path for pattern in _CHANGING_FILES for path in self.folder.glob(pattern) if path.is_file()}

    @property
    def stepped(self) -> bool:
        """Whether the resumed run has trained."""
        return bool(self._stepped)

    def mark(self, *_: Any) -> None:
        """Note that the resumed run has trained: from now on its end is recorded."""
        self._stepped[0] = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizers: list[Any] = [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]
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
            print(
                f"run {self.run_id}: the resume failed before its first step; the run is unchanged ({self.status})",
                file=sys.stderr,
            )
            return True
        return False
