"""What the answers cost that need no training."""

import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Row, interleaved, quotients, table

SCRIPTS = Path(__file__).resolve().parents[1]


def run(repeats: int) -> None:
    """CPU time of the answers that need no training, against the import of Hydra and a trivial Hydra app."""
    train = str(SCRIPTS / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text("a: 1\n")
        app = Path(folder) / "app.py"
        app.write_text(
            "import hydra\n@hydra.main(version_base='1.3', config_path='.', config_name='config')\n"
            "def main(cfg): pass\nmain()\n"
        )
        trivial = [str(app), "hydra.output_subdir=null", f"hydra.run.dir={folder}", "hydra/job_logging=none"]
        commands = {
            "import hydra": ["-c", "import hydra"], "a trivial Hydra app": trivial, "train.py --help": [train, "--help"],
            "train.py --cfg job": [train, "--cfg", "job"], "shell completion": [train, "-sc", "query=bash"],
            "a misspelt override": [train, "modle=mlp"],
        }  # fmt: skip
        times = interleaved({name: functools.partial(cpu_of, command) for name, command in commands.items()}, repeats)
    base, app_time = times.pop("import hydra"), times["a trivial Hydra app"]
    rows = [Row("a trivial Hydra app / import hydra", quotients(times.pop("a trivial Hydra app"), base), None)]
    for name, seconds in times.items():
        took = f"{statistics.median(seconds):.2f} s"
        rows += [Row(f"{name} / import hydra", quotients(seconds, base), 4, note=took)]
        rows += [Row(f"{name} / a trivial Hydra app", quotients(seconds, app_time), None)]
    table("startup (CPU time of a process)", rows)


def cpu_of(arguments: Sequence[str]) -> float:
    """CPU seconds, user and system, of ``python ARGUMENTS``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = "python train.py data=fas"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
