"""Sweeps whose runs are jobs of a real Slurm and tasks of a real Ray."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SEARCH = ("hydra/sweeper=optuna", "search=classification", "search.trials=4", "sweep.jobs=2")
WITNESS = """
import pathlib, pytorch_lightning as pl

class Witness(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_start(self, trainer, pl_module):
        pathlib.Path(self.folder, f"{trainer.global_rank + 1} of {trainer.world_size}.rank").touch(exist_ok=False)
"""
FINISHED = ["FINISHED"] * 5  # the sweep's run and four children


def kill_one_job(slurm: Callable[..., str]) -> None:
    """Kill the first job that runs, as the system would: without a word."""
    while not (job := slurm("squeue", "-h", "-t", "RUNNING", "-o", "%A").split()):
        time.sleep(0.1)
    slurm("scancel", "--signal=KILL", job[0])


def test_a_grid_on_slurm_has_all_its_runs_though_a_job_was_killed(slurm: Callable[..., str], sweep: Any) -> None:
    killer = threading.Thread(target=kill_one_job, args=(slurm,), daemon=True)
    killer.start()
    swept = sweep("hydra/launcher=slurm", "seed=0,1,2,3", "sweep.retries=1")
    killer.join(timeout=0)
    assert not killer.is_alive()
    assert swept.statuses == FINISHED
    assert [point["seed"] for point in swept.params] == [0, 1, 2, 3]
    assert [count or "0" for count in swept.of_children("sweep.failures")].count("1") == 1


@pytest.mark.long
def test_a_search_on_slurm_has_as_many_runs_as_were_asked_for(slurm: Callable[..., str], sweep: Any) -> None:
    swept = sweep("hydra/launcher=slurm", *SEARCH)
    assert swept.statuses == FINISHED
    assert len({point["optimizer.lr"] for point in swept.params}) == 4


@pytest.mark.parametrize("setting", ["tasks_per_node=2", "cpus_per_task=2"])
def test_two_processes_of_a_slurm_job_are_two_ranks_of_one_run(
    setting: str, slurm: Callable[..., str], sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rank_witness.py").write_text(WITNESS)
    path = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    witness = ("+callbacks.witness._target_=rank_witness.Witness", f"+callbacks.witness.folder='{tmp_path}'")
    swept = sweep(
        "hydra/launcher=slurm", f"hydra.launcher.{setting}", "seed=0", "trainer=ddp", "trainer.devices=2", *witness
    )
    assert swept.statuses == ["FINISHED", "FINISHED"]
    assert sorted(file.name for file in tmp_path.glob("*.rank")) == ["1 of 2.rank", "2 of 2.rank"]


@pytest.mark.long
def test_two_nodes_of_slurm_are_two_ranks_of_one_run(slurm: Callable[..., str], sweep: Any, tmp_path: Path) -> None:
    several = ("partition=two", "nodes=2", "tasks_per_node=1")
    words = [f"hydra.launcher.{setting}" for setting in several]
    swept = sweep("hydra/launcher=slurm", *words, "seed=0", "trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1")
    assert swept.statuses == ["FINISHED", "FINISHED"]
    assert swept.children[0].data.metrics["comm/world_size"] == 2
    logs = "".join(log.read_text() for log in tmp_path.rglob("*_log.out"))
    assert "node=0(2)" in logs
    assert "node=1(2)" in logs


def test_a_grid_on_ray_has_all_its_runs(ray: None, sweep: Any) -> None:
    swept = sweep("hydra/launcher=ray", "seed=0,1,2,3")
    assert swept.statuses == FINISHED
    assert [point["seed"] for point in swept.params] == [0, 1, 2, 3]


@pytest.mark.long
def test_a_search_on_ray_has_as_many_runs_as_were_asked_for(ray: None, sweep: Any) -> None:
    swept = sweep("hydra/launcher=ray", *SEARCH)
    assert swept.statuses == FINISHED
    assert len({point["optimizer.lr"] for point in swept.params}) == 4
