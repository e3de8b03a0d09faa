"""What the harness costs and gains, measured side by side: ``python scripts/benchmark.py SUBJECT|all``.

Each table holds the median and the range over interleaved repeats (A B A B …) in one process with one thread. A bar
that is not met is printed as such; the exit code says nothing of speed.
"""

import argparse
import importlib
import os
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import processor

from lightning_modules.tracking.store import sqlite_uri

SUBJECTS = {  # benchmarks/NAME.py has `run(repeats)`
    "startup": "what answers without training",
    "data": "crop, flip and normalise",
    "overhead": "an epoch against plain PyTorch",
    "logging": "three metrics in each step",
    "compare": "10,000 runs in one table",
    "sweep": "50 runs of a second each",
    "claims": "wrong verdicts of each kind of claim, by simulation (minutes; not part of all)",
    "comm": "what strategies send, and what that would cost elsewhere (minutes; not part of all)",
    "comm_links": "its cost model on slowed loopbacks (needs root; not part of all)",
    "compression": "what recipes gain, the next five together (about an hour; not part of all)",
    "compression_size": "files of deep_compression",
    "compression_speed": "a ResNet-20 with half its operations, and in int8",
    "latency": "structured, quantized and masked networks with random weights",
    "distillation": "a student with and without its teacher",
    "gpu": "what only a GPU can show, checks first: minutes=8 out=mlruns/gpu (not part of all)",
    "large_data": "memory of an epoch over 4 GB of each format (needs 5 GB of disk; minutes; not part of all)",
    "tables": "a million rows loaded, against pandas (needs 6 GB of memory; minutes; not part of all)",
    "systems": "language models and others than classifiers against plain loops",
    "lottery": "tickets, random zeros and dense networks on MNIST-1D",
}
LONG = (
    "claims",
    "comm",
    "comm_links",
    "compression",
    "compression_size",
    "compression_speed",
    "latency",
    "distillation",
    "lottery",
    "systems",
    "tables",
    "large_data",
    "gpu",
)
PACKAGES = (
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "mlflow",
    "torchvision",
    "torchmetrics",
    "scipy",
    "onnxruntime",
    "pandas",
    "pyarrow",
)


def main() -> None:
    listed = "; ".join(f"{name}: {what}" for name, what in SUBJECTS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*SUBJECTS, "all"], help=listed)
    parser.add_argument("--repeats", type=int, default=5, help="turns that count (default 5)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of gpu: minutes=8 and out=FOLDER")
    arguments = parser.parse_args()
    if arguments.what == "gpu":
        sys.exit(_gpu(arguments.settings))
    if arguments.settings:
        parser.error(f"{arguments.what} takes no settings; expected none, got {' '.join(arguments.settings)}")
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    os.environ.update(OMP_NUM_THREADS="1", MLFLOW_DISABLE_TELEMETRY="true", FORCE_COLOR="1")  # the bar is drawn
    machine = f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{date.today()}, {machine}; Python {platform.python_version()}, {packages}")
    quick = [name for name in SUBJECTS if name not in LONG]
    for name in quick if arguments.what == "all" else [arguments.what]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri(Path(folder) / "mlflow.db")
            importlib.import_module(f"benchmarks.{name}").run(arguments.repeats)


def _gpu(words: list[str]) -> int:
    """Read ``minutes=…`` and ``out=…``, and run what needs a GPU; the exit code is 1 where a check failed."""
    from benchmarks.gpu import run_all

    settings = {"minutes": "8", "out": "mlruns/gpu"}
    for word in words:
        key, _, value = word.partition("=")
        if key not in settings or not value:
            sys.exit(f"benchmark.py gpu: {word}: expected minutes=NUMBER or out=FOLDER")
        settings[key] = value
    try:
        minutes = float(settings["minutes"])
    except ValueError:
        sys.exit(f"benchmark.py gpu: minutes={settings['minutes']}: expected a number")
    return 0 if run_all(minutes, Path(settings["out"])) else 1


if __name__ == "__main__":
    main()
