"""A LightningModule of the user's own, recorded by `mlflow server`: killed with its process, and resumed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import open_store

TESTS = Path(__file__).parents[1]
WORDS = (
    "task=lightning_module", "task._target_=user_modules.Classifier", "data=lightning_datamodule",
    "data._target_=user_modules.Points", "task.monitor={metric: val_loss, mode: min}", "trainer.max_epochs=3",
    "tracking.system_metrics_s=null", "tracking.pictures=false", "callbacks.progress=null", "callbacks.summary=null",
    "callbacks.last.every_s=0",
)  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_of_a_server_is_resumed_bit_for_bit(new_server: Callable[..., Any], tmp_path: Path) -> None:
    server = new_server()
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    trust = "user_modules,kill_once_callbacks"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "PYTHONPATH": path, "TOUCHSTONE_TRUST": trust}

    def train(code: int, *words: str) -> None:
        command = [sys.executable, str(TESTS.parent / "scripts" / "train.py"), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == code, done.stderr

    kill = {"_target_": "kill_once_callbacks.KillOnce", "mark": f"'{tmp_path}/mark'", "rank": 0, "at": 2}
    train(-9, *WORDS, "name=killed", *(f"+callbacks.killed.{key}={value}" for key, value in kill.items()))
    train(0, "resume=killed")
    train(0, *WORDS, "name=whole")
    store = open_store(server.uri)
    states, points = [], []
    for name in ("killed", "whole"):
        (run,) = store.search_runs(f"attributes.run_name = '{name}'")
        assert run.info.status == "FINISHED"
        states.append(torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"])
        points.append([(p.step, p.value) for p in store.client.get_metric_history(run.info.run_id, "val_loss")])
    assert all(torch.equal(value, states[0][key]) for key, value in states[1].items())
    assert points[0] == points[1] and len(points[0]) == 3
