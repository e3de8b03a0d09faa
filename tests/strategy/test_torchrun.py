"""Ranks that torchrun has started make the run that they make where the first of them starts the others."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("trainer=ddp", "trainer.max_epochs=2", "data.per_class=10", "model=mlp", "callbacks=last", "tracking.pictures=false",
         "tracking.system_metrics_s=null", "~callbacks.progress", "~callbacks.summary")  # fmt: skip


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*program, str(ROOT / "scripts" / "train.py"), *words],
        cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def runs_of(store: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return list(store.client.search_runs(experiments, order_by=["attributes.start_time DESC"]))


@pytest.mark.slow
def test_torchrun_gives_one_run_with_the_weights_of_our_own_start(
    store: Any, train: Callable[..., Any], tmp_path: Path
) -> None:
    done = torchrun(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr[-3000:]
    (theirs,) = runs_of(store)
    assert theirs.info.status == "FINISHED"
    assert theirs.data.metrics["comm/world_size"] == 2
    ours = train(*WORDS, quick=False)
    first, second = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (ours, theirs))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert ours.data.metrics["test/loss"] == theirs.data.metrics["test/loss"]


@pytest.mark.slow
def test_ranks_with_another_config_end_with_one_message_and_one_failed_run(store: Any, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WORDS, "optimizer.lr=1e-${oc.env:RANK}")
    assert done.returncode != 0
    assert done.stderr.count("The ranks are not one job:") == 1, done.stderr[-3000:]
    assert done.stderr.count("  rank 1 has optimizer.lr=") == 1
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"
