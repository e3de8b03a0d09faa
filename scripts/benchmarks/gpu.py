"""Everything that a GPU is needed for, in one command: correctness first, then speed, each part in its own process.

``python scripts/benchmark.py gpu minutes=8 out=FOLDER`` writes `results.jsonl` and `table.md` as results arrive, so that
a cut loses only what had not begun. Without a GPU the checks that also run on a CPU run there.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_modules.tracking.store import sqlite_uri

ROOT = Path(__file__).resolve().parents[2]
CORRECTNESS_S = 240.0  # of all checks together, whatever the whole may take


@dataclass(frozen=True)
class Part:
    """One process: `what` is a test file (checks) or a function of `gpu_speed` (measurements); `cap_s` its time limit."""

    what: str
    cap_s: float
    on_cpu: bool = False  # whether it runs on a machine without a GPU too


CHECKS = (
    Part("tests/gpu/test_training.py", 90, on_cpu=True),
    Part("tests/gpu/test_cuda_only.py", 120),
    Part("tests/augmentation", 60),
    Part("tests/gpu/test_compression.py", 120, on_cpu=True),
)
MEASUREMENTS = (  # the most important first
    Part("step", 60),
    Part("transforms", 45),
    Part("device_data", 75),
    Part("fashion_mnist", 180),
    Part("logging", 60),
    Part("colour_images", 240),
)


@dataclass(frozen=True)
class Result:
    """One line of the table: `value` a ratio, seconds or a share; `bar` what it is held against, as text."""

    part: str
    what: str
    status: str  # passed, failed, met, not met, measured, not reached
    value: str = ""
    bar: str = ""
    note: str = ""


class Report:
    """Results as they arrive, in two files and on the terminal."""

    def __init__(self, folder: Path, title: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines, self.table = folder / "results.jsonl", folder / "table.md"
        self.failed, self.complete = 0, True
        self.lines.write_text("")
        head = f"{title}\n\n| part | what | result | value | bar | note |\n|---|---|---|---|---|---|\n"
        self.table.write_text(head)
        print(head, end="", flush=True)

    def add(self, result: Result) -> None:
        self.failed += result.status == "failed"
        self.complete &= result.status != "not reached"
        row = (
            "| "
            + " | ".join(str(value).replace("|", "/").replace("\n", " ") for value in asdict(result).values())
            + " |"
        )
        for path, text in ((self.lines, json.dumps(asdict(result))), (self.table, row)):
            with path.open("a") as file:
                file.write(text + "\n")
        print(row, flush=True)


def run_all(minutes: float, folder: Path) -> bool:
    """Run checks and measurements within `minutes`; return whether no check failed."""
    import torch

    has_gpu = torch.cuda.is_available()
    report = Report(folder, _title(has_gpu))
    end = time.monotonic() + 60 * minutes
    checks_end = min(end, time.monotonic() + CORRECTNESS_S) if has_gpu else end
    for part in CHECKS:
        if has_gpu or part.on_cpu:
            run_part(part, _pytest(part), checks_end, report, has_gpu)
    for part in MEASUREMENTS if has_gpu else ():
        run_part(part, [sys.executable, "-m", "benchmarks.gpu_speed", part.what], end, report, has_gpu)
    if not has_gpu:
        outcome = "failed" if report.failed else "passed" if report.complete else "cut: give it more minutes"
        print(f"no GPU: CPU part {outcome}")
    return not report.failed and (has_gpu or report.complete)


def _title(has_gpu: bool) -> str:
    import torch

    device = torch.cuda.get_device_name() if has_gpu else "no GPU"
    return f"{time.strftime('%Y-%m-%d')}, {device}, {os.cpu_count()} cores, torch {torch.__version__}"


def _pytest(part: Part) -> list[str]:
    workers = min(4, os.cpu_count() or 1)
    command = [sys.executable, "-m", "pytest", part.what, "-m", "gpu", "-p", "benchmarks.gpu_report", "--timeout=300"]
    return [*command, "-p", "no:cacheprovider", "-n", str(workers), "--dist", "worksteal"]


def run_part(part: Part, command: list[str], end: float, report: Report, has_gpu: bool) -> None:
    """Run one part until its cap (of a GPU) or the end; add its results, and one line where it was cut or broke."""
    left = min(part.cap_s if has_gpu else math.inf, end - time.monotonic())
    name = Path(part.what).stem
    if left < 5:
        report.add(Result(name, "all of it", "not reached", note="no time left"))
        return
    stopped = False
    for line in _lines(command, left):
        if line is None:
            report.add(Result(name, "what is not listed above", "not reached", note=f"cut after {left:.0f} s"))
            stopped = True
        elif isinstance(line, int):
            if line and not stopped:
                report.add(Result(name, "the process", "failed", note=f"exit code {line}"))
        else:
            report.add(Result(name, **line))


def _lines(command: list[str], limit_s: float) -> Iterator[dict[str, Any] | int | None]:
    """The JSON objects that a command writes to the file of `TOUCHSTONE_RESULTS`, None where it is cut, its exit code."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        results.touch()
        environment = {
            **os.environ,
            "TOUCHSTONE_RESULTS": str(results),
            "MLFLOW_TRACKING_URI": sqlite_uri(Path(folder) / "mlflow.db"),
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
        )
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            end = time.monotonic() + limit_s
            with results.open() as read:
                while process.poll() is None and time.monotonic() < end:
                    yield from map(json.loads, read.readlines())
                    time.sleep(0.2)
                if process.poll() is None:
                    os.killpg(process.pid, 9)
                    process.wait()
                    yield from map(json.loads, read.readlines())
                    yield None
                yield from map(json.loads, read.readlines())
        if process.returncode not in (0, 1, -9):  # 1: tests failed, each has its own line
            print((Path(folder) / "log").read_text()[-3000:])
        yield process.returncode if process.returncode != 1 or "pytest" not in command else 0
