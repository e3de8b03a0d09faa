"""Sweeps that are disturbed: callbacks that wait or do harm, commands with their processes, what must stand at the end."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from lightning_modules.tracking.rerun import metric_histories

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    "model=linear", "data.per_class=20", "trainer.max_epochs=4", "trainer.log_every_n_steps=1", "cpu_threads=1",
    "callbacks.last.every_s=0", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.summary",
)  # fmt: skip
CALLBACKS = '''
import os, pathlib, shutil, signal, sqlite3, time
import pytorch_lightning as pl

class Gate(pl.Callback):
    """Leaves a mark as epoch `at` begins, and waits there until the gate is open."""

    def __init__(self, folder, at):
        self.folder, self.at = pathlib.Path(folder), at

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.at:
            (self.folder / f"{os.getpid()}.waits").touch()
            while not (self.folder / "open").exists():
                time.sleep(0.02)

class Limit(pl.Callback):
    """Lets so many runs through as the file `limit` says; a later one waits as its epoch 1 begins."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            (self.folder / f"{os.getpid()}.begun").touch()
            while len(list(self.folder.glob("*.begun"))) > int((self.folder / "limit").read_text() or 0):
                time.sleep(0.02)

class Once(pl.Callback):
    """Does one harm in epoch 2 of the first run that comes there."""

    def __init__(self, folder, harm):
        self.folder, self.harm = pathlib.Path(folder), harm

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            try:
                (self.folder / "done").touch(exist_ok=False)
            except FileExistsError:
                return
            getattr(self, self.harm)(trainer)

    def nothing(self, trainer):
        pass

    def damage(self, trainer):
        file = next(pathlib.Path(c.dirpath) / "last.ckpt" for c in trainer.checkpoint_callbacks if hasattr(c, "every_s"))
        file.write_bytes(file.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_the_forkserver(self, trainer):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1.5)  # the sweep has noticed

    def delete_the_store(self, trainer):
        store = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
        shutil.rmtree(store)

    def fill_the_disk(self, trainer):
        store = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
        with open(store / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
'''


def gate(folder: Path, at: int = 1) -> tuple[str, ...]:
    return (
        "+callbacks.gate._target_=sweep_faults_callbacks.Gate",
        f"+callbacks.gate.folder='{folder}'",
        f"+callbacks.gate.at={at}",
    )


def once(folder: Path, harm: str) -> tuple[str, ...]:
    return (
        "+callbacks.once._target_=sweep_faults_callbacks.Once",
        f"+callbacks.once.folder='{folder}'",
        f"+callbacks.once.harm={harm}",
    )


class Command:
    """``touchstone train -m WORDS`` as a terminal starts it: in a process group of its own."""

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / f"{self.mark}.out"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *words],
                cwd=folder, env={**os.environ, "SWEEP_TEST": self.mark}, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.output.read_text()

    def says(self, text: str) -> None:
        until(lambda: text in self.said() or self.process.poll() is not None)
        assert text in self.said()

    def until_finished(self, store: Any, count: int) -> None:
        """Wait for so many FINISHED runs in the store."""
        until(lambda: finished(store) >= count or self.process.poll() is not None)

    def signal_all(self, number: int) -> None:
        """What Ctrl-C does in a terminal."""
        os.killpg(self.process.pid, number)

    def waiting(self, folder: Path, count: int) -> list[int]:
        """Wait for so many living runs at the gate; return their process ids."""

        def there() -> list[int]:
            assert self.process.poll() is None, self.said()
            found = [int(file.stem) for file in folder.glob("*.waits")]
            return [pid for pid in found if is_there(pid)]

        until(lambda: len(there()) == count)
        return there()

    def left(self) -> list[psutil.Process]:
        """All processes that this command has started and that live."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SWEEP_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ends(self) -> int:
        """Wait for its end and for that of all that it has started; return the exit code."""
        code = self.process.wait(200)
        until(lambda: not self.left())
        return code


def is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def until(condition: Callable[[], Any], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


Points = dict[str, list[tuple[int, float]]]  # of a run: those of each metric


def points_of(store: Any, done: Any) -> list[Points]:
    """The points of each trial of a sweep."""
    return [metric_histories(store, child.run_id) for child in done.children]


def check_whole(store: Any, done: Any, trials: int, undisturbed: Sequence[Points] = ()) -> None:
    """All trials are FINISHED, each has one run, no run has a step twice, and all values are those of the other sweep."""
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"] * trials
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(everywhere, f"tags.`mlflow.parentRunId` = '{done.parent.info.run_id}'", 1, 1000)
    assert len(runs) == trials
    assert done.parent.info.status == "FINISHED"
    points = points_of(store, done)
    for run in points:
        assert run["test/accuracy"]
        for metric, history in run.items():
            assert len({step for step, _ in history}) == len(history), metric
    if undisturbed:
        assert points == list(undisturbed[:trials])


# --- kill -9 ------------------------------------------------------------------------------------------------------


def finished(store: Any) -> int:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return len(store.client.search_runs(everywhere, "attributes.status = 'FINISHED'", 1, 1000))


def newest_parent(store: Any) -> Any:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return store.client.search_runs(everywhere, "tags.`touchstone.kind` = 'sweep'")[0]


def newest_sweep(store: Any) -> Any:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(
        experiments, "tags.`touchstone.kind` = 'sweep'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return found[0] if found else None
