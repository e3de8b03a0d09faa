"""What Slurm is asked for, read off the batch script that submitit writes; nothing is submitted."""

import os
from pathlib import Path

import pytest

from lightning_modules.config.project import CONF

pytestmark = pytest.mark.slow  # with the other tests of engines, whose packages the plain install leaves out
SEVERAL = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2", "trainer.num_nodes=2", "trainer.devices=2")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `sbatch` leaves the script; it refuses the job, as a cluster may."""
    kept = tmp_path / "script"
    for name, does in (("srun", ""), ("sbatch", f"cp $1 '{kept}'; echo no >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return kept


def launch(folder: Path, *overrides: str) -> None:
    """Hand one job to the launcher that these overrides configure."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["hydra/launcher=slurm", f"hydra.sweep.dir='{folder}'", "hydra.job.name=train", *overrides]
        config = compose("train", words, return_hydra_config=True)
    launcher = instantiate(config.hydra.launcher)
    launcher.setup(hydra_context=None, task_function=print, config=config)
    launcher.launch([["seed=0"]], initial_job_idx=0)


def test_two_nodes_of_two_processes_are_asked_for_as_such_and_may_be_requeued(
    script: Path, tmp_path: Path, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal, match="no"):
        launch(tmp_path, "trainer=ddp", *SEVERAL, "hydra.launcher.cpus_per_task=4")
    asked = {line for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = {"--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=4", "--time=1440", "--requeue", "--signal=USR2@120"}
    assert {f"#SBATCH {flag}" for flag in wanted} <= asked
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK" in script.read_text()


def test_a_job_of_one_process_asks_for_one(script: Path, tmp_path: Path, refusal: type[Exception]) -> None:
    with pytest.raises(refusal, match="no"):
        launch(tmp_path, "hydra.launcher.gpus_per_node=1", "hydra.launcher.partition=gpu")
    text = script.read_text()
    for flag in ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--partition=gpu"):
        assert f"#SBATCH {flag}\n" in text
