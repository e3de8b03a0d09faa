"""The command for GPUs, as far as a machine without one can show it: checks run, cuts and failures are told apart."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_process import run_forked

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import gpu  # noqa: E402


def statuses(folder: Path) -> list[str]:
    return [json.loads(line)["status"] for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_results_arrive_line_by_line_and_what_is_cut_is_told(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path, "a machine")
    write = "import json, os, time; f = open(os.environ['TOUCHSTONE_RESULTS'], 'a', 1); "
    one = "f.write(json.dumps({'what': 'it', 'status': 'passed'}) + chr(10)); "
    limit = gpu.time.monotonic() + 60
    gpu.run_part(gpu.Part("quick", 20), [sys.executable, "-c", write + one], limit, report, True)
    gpu.run_part(gpu.Part("slow", 5), [sys.executable, "-c", write + one + "time.sleep(60)"], limit, report, True)
    gpu.run_part(gpu.Part("broken", 20), [sys.executable, "-c", "raise SystemExit(3)"], limit, report, True)
    gpu.run_part(gpu.Part("late", 20), [sys.executable, "-c", "pass"], gpu.time.monotonic(), report, True)
    assert statuses(tmp_path) == ["passed", "passed", "not reached", "failed", "not reached"]
    assert report.failed == 1
    assert (tmp_path / "table.md").read_text().count("\n| ") == 6


@pytest.mark.parametrize("word", ["minutes=soon", "minuts=3", "out="])
def test_a_wrong_setting_is_refused(word: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/benchmark.py"), "gpu", word], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "expected" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["step", "transforms", "device_data", "logging", "fashion_mnist"])
def test_a_measurement_works_in_small(subject: str, store: Any, tmp_path: Path) -> None:
    results = {"TOUCHSTONE_RESULTS": str(tmp_path / "results.jsonl")}
    done = run_forked(["-m", "benchmarks.gpu_speed", subject, "cpu"], ROOT / "scripts", {**os.environ, **results})
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path)
