"""Fifty runs of a second each, by our pool, by Hydra's basic launcher and by its joblib launcher, as whole commands."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytorch_lightning as pl

from benchmarks.measure import Row, table
from lightning_modules.tracking.store import sqlite_uri

JOBS, AT_A_TIME, TURNS = 50, 2, 3  # three minutes a turn
SLEEP_S = 0.4  # beside what the run itself does: a second in all
TRAIN = Path(__file__).resolve().parents[1] / "train.py"
RUN = (
    "data.per_class=20", "model=linear", "trainer.max_epochs=1", "tracking.system_metrics_s=null", "tracking.pictures=false",
    "callbacks.progress=null", "callbacks.summary=null", "cpu_threads=1", "+callbacks.second._target_=benchmarks.sweep.Second",
)  # fmt: skip
COMMANDS = {
    "pool, 2 at a time": (f"sweep.jobs={AT_A_TIME}",),
    "joblib, 2 at a time": ("hydra/sweeper=basic", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={AT_A_TIME}"),
    "basic, 1 at a time": ("hydra/sweeper=basic", "hydra/launcher=basic"),
}


class Second(pl.Callback):
    """Makes a run last as long as one that learns something, without taking a core."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time.sleep(SLEEP_S)


def run(repeats: int) -> None:
    """Seconds a run beyond the ideal: that the same runs take in one warm process, shared out over those at a time."""
    alone()  # does not count: it imports
    rows = []
    turns = [(alone(), {name: sweep(*words) for name, words in COMMANDS.items()}) for _ in range(min(repeats, TURNS))]
    for name in COMMANDS:
        slots = AT_A_TIME if "2 at" in name else 1
        beyond = [[(took - JOBS * each / slots) / JOBS for took in times[name]] for each, times in turns]
        seconds = ", ".join(f"{times[name][1]:.0f}" for _, times in turns)
        rows.append(Row(f"{name}: from the first run to the last", [first for first, _ in beyond], 0.3))
        rows.append(Row(f"{name}: whole command", [whole for _, whole in beyond], None, note=f"{seconds} s"))
    each = ", ".join(f"{each:.2f}" for each, _ in turns)
    table(f"sweep ({JOBS} runs, seconds a run beyond the ideal; one alone in a warm process: {each} s)", rows)


def sweep(*words: str) -> tuple[float, float]:
    """Seconds from the begin of the first run to the end of the last, and of the whole command, in a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": sqlite_uri(database), "PYTHONPATH": str(TRAIN.parent)}
        command = [sys.executable, str(TRAIN), "-m", f"seed=range({JOBS})", *RUN, *words, f"hydra.sweep.dir={folder}"]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
        with closing(sqlite3.connect(database)) as store:
            runs = "SELECT count(*), min(start_time), max(end_time) FROM runs JOIN params USING (run_uuid) WHERE key = 'seed'"
            count, first, last = store.execute(runs).fetchone()
        assert count == JOBS
        return (last - first) / 1000, whole


def alone() -> float:
    """Seconds of one such run in this process, which has done it before; composing its config included."""
    import contextlib
    import io

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run as train

    for _ in range(2):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train(compose_run(RUN))
    return time.perf_counter() - start
