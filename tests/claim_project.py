"""A claim, and a copy of the project with claims of the test's own, run as a user runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]

QUICK = {
    "defaults": [
        {"override /data": "digits"}, {"override /model": "linear"}, {"override /callbacks": "last"},
    ],
    "data": {"per_class": 10, "val_fraction": 0.0},
    "trainer": {"max_epochs": 40},
    "tracking": {"system_metrics_s": None, "pictures": False},
}  # fmt: skip
CLAIM = {
    "paper": {"title": "A linear model", "authors": "A. Author, B. Other", "year": 2020, "link": "https://example.org"},
    "source": {"place": "table 1", "kind": "paper_table"},
    "metric": "test/accuracy",
    "unit": "%",
    "better": "higher",
    "kind": "absolute",
    "value": 85.0,
    "selection": "last",
    "tolerance": {"value": 9.0, "why": "so that any seed of the linear model is inside"},
    "seeds": [0, 1, 2],
    "data": "0" * 64,
    "expect": "REPRODUCED",
    "budget": {"cpu_minutes": 1, "memory_gb": 1},
    "tier": "ci",
}


class Project:
    """A copy of the package, configs and scripts, with no experiments but those that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("lightning_modules", "conf", "scripts", "template"):
            shutil.copytree(
                ROOT / name, folder / name, symlinks=True
            )  # with its bytecode: no process compiles it again
        (folder / "experiments").mkdir()
        (folder / "mlruns").mkdir()

    def claim(self, name: str, claim: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Path:
        """Write an experiment: `QUICK` with what `config` changes, and `CLAIM` with what `claim` changes."""
        path = self.folder / "experiments" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        node = {key: value for key, value in (CLAIM | (claim or {})).items() if value is not None}
        body = yaml.safe_dump({**QUICK, **(config or {}), "claim": node}, sort_keys=False)
        path.write_text(f"# @package _global_\n{body}")
        return path

    def command(self, *words: str) -> list[str]:
        """The verb's command."""
        return [sys.executable, str(self.folder / "scripts" / "reproduce.py"), *words]

    def environment(self) -> dict[str, str]:
        """The environment of the verb: its own package, its own store."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def reproduce(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the verb in a process of its own, from another folder."""
        return subprocess.run(
            self.command(*words),
            cwd=self.folder.parent, env=self.environment(), capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip

    def store(self) -> Any:
        """The project's store."""
        from lightning_modules.tracking.store import open_store

        return open_store(f"sqlite:///{self.folder}/mlruns/mlflow.db")
