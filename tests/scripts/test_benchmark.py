"""What answers without training must not load what training needs; the benchmark's own arithmetic."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "pytorch_lightning", "lightning_fabric", "mlflow", "torchmetrics", "sklearn", "matplotlib")
ANSWERS = {
    "help": (["--help"], 0, "Groups and their options"),
    "the config": (["--cfg", "job"], 0, "max_epochs"),
    "shell completion": (["-sc", "query=bash"], 0, "data=fashion_mnist"),
    "a misspelt override": (["modle=mlp"], 1, ""),
    "a misspelt option": (["model=mpl"], 1, ""),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_needs_no_training_loads_no_torch_no_lightning_and_no_mlflow(answer: str, tmp_path: Path) -> None:
    arguments, code, words = ANSWERS[answer]
    line = "python train.py data=fas"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "train.py"), *arguments],
        cwd=tmp_path, env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    assert words in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "hydra" in loaded
    assert not loaded.intersection(HEAVY)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmarks.measure")


def test_every_subject_of_the_benchmark_has_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    subjects = importlib.import_module("benchmark").SUBJECTS
    assert callable(importlib.import_module("benchmarks.gpu").run_all), "which is not run so many times, but so long"
    assert all(callable(importlib.import_module(f"benchmarks.{name}").run) for name in subjects if name != "gpu")


def test_a_row_holds_median_range_and_whether_the_bar_is_met(benchmark: Any) -> None:
    assert str(benchmark.Row("a / b", [1.0, 3.0, 2.0], 1.5)) == "| a / b | 3 | 2.00 | 1.00–3.00 | ≤ 1.5 | NOT MET |  |"
    assert "≥ 1.5 | met" in str(benchmark.Row("a / b", [1.0, 3.0, 2.0], 1.5, above=True))


def test_repeats_alternate_after_one_turn_that_does_not_count(benchmark: Any) -> None:
    calls: list[str] = []

    def measure(name: str) -> Any:
        def call() -> float:
            calls.append(name)
            return float(len(calls))

        return call

    times = benchmark.interleaved({"a": measure("a"), "b": measure("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert times == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert benchmark.quotients(times["a"], times["b"]) == [3 / 4, 5 / 6]
