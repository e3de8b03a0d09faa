"""Fifty runs of a second each, by our pool, by Hydra's basic launcher and by its joblib launcher, as whole commands."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl

from benchmarks.measure import Row, interleaved, table

JOBS, AT_A_TIME, TURNS = 50, 2, 3
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
    """Seconds a run beyond the ideal: the whole command, less the runs alone in one warm process over those at a time."""
    measures = {"alone": alone, **{name: lambda words=words: sweep(*words) for name, words in COMMANDS.items()}}
    times = interleaved(measures, min(repeats, TURNS))
    single = times.pop("alone")
    rows = []
    for name, seconds in times.items():
        slots = AT_A_TIME if "2 at" in name else 1
        beyond = [(whole - JOBS * each / slots) / JOBS for whole, each in zip(seconds, single, strict=True)]
        shown = ", ".join(f"{whole:.0f}" for whole in sorted(seconds))
        rows.append(Row(f"{name}: seconds beyond the ideal, a run", beyond, 0.3, note=f"whole command: {shown} s"))
    each = ", ".join(f"{seconds:.2f}" for seconds in sorted(single))
    table(f"sweep ({JOBS} runs; one alone in a warm process: {each} s)", rows)


def sweep(*words: str) -> float:
    """Seconds of a sweep as a whole command, in a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": str(TRAIN.parent),
        }
        command = [sys.executable, str(TRAIN), "-m", f"seed=range({JOBS})", *RUN, *words, f"hydra.sweep.dir={folder}"]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
        return time.perf_counter() - start


def alone() -> float:
    """Seconds of one such run in this process, which has done it before; composing its config included."""
    import contextlib
    import io

    from lightning_modules.command_line import compose_run
    from lightning_modules.run import run as train

    for _ in range(2):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train(compose_run(RUN))
    return time.perf_counter() - start
