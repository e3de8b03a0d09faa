"""Imported once, by the forkserver of the trials: nothing here may start a thread or touch CUDA."""

import gc
import importlib
import io
import os
import signal

from matplotlib.figure import Figure

from lightning_modules.config.command_line import compose_run
from lightning_modules.tracking.provenance import package_versions

MODULES = (
    "lightning_modules.run.run", "lightning_modules.sweep.trial_job", "lightning_modules.data.in_memory", "mlflow.pyfunc",
    "lightning_modules.task.classification", "mlflow.store.tracking.sqlalchemy_store", "mlflow.types.responses", "optuna",
    "pandas", "scipy.io", "sklearn.datasets", "sklearn.metrics", "torchvision", "torch.utils.serialization",
    "detect_secrets.core.scan",
)  # fmt: skip


def preload() -> None:
    """Do once what every trial would do first: imports, the parser's tables, fonts, the list of packages."""
    for name in MODULES:
        importlib.import_module(name)
    compose_run([])
    package_versions()
    figure = Figure(layout="constrained")
    figure.subplots().plot([0, 1], label="1")
    figure.savefig(io.BytesIO(), format="png")


if os.environ.get("PYTHONSAFEPATH") == "touchstone":  # set for this process alone (process_pool.py)
    del os.environ["PYTHONSAFEPATH"]
signal.signal(signal.SIGINT, signal.SIG_IGN)  # blocked until now; multiprocessing ignores it only after the imports
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
preload()
gc.freeze()  # a trial does not search what is imported for garbage, which would copy its pages, too
