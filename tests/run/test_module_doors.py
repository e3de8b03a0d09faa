"""Any module is killed and resumed, and started by torchrun, as our tasks are."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path

TESTS = Path(__file__).parents[1]
WORDS = (
    "task=lightning_module", "task._target_=user_modules.Classifier", "data=lightning_datamodule",
    "data._target_=user_modules.Points", "tracking.system_metrics_s=null", "tracking.pictures=false",
    "callbacks.progress=null", "callbacks.summary=null",
)  # fmt: skip
RANKS = ("strategy=ddp", "trainer.devices=2")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules,kill_once_callbacks")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))


def runs(store: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return list(store.client.search_runs(experiments, order_by=["attributes.start_time"]))


def weights(store: Any, run: Any) -> dict[str, torch.Tensor]:
    return torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]


def test_a_killed_rank_of_any_module_is_named_and_the_run_resumes_bit_for_bit(
    store: Any, train: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*WORDS, *RANKS, "trainer.max_epochs=2", "callbacks.last.every_s=0")
    kill = {"_target_": "kill_once_callbacks.KillOnce", "mark": f"'{tmp_path}/mark'", "at": 1}
    with pytest.raises(UserError, match=r"Rank 1 of 2, process .* was killed by SIGKILL"):
        train(*words, *(f"+callbacks.killed.{key}={value}" for key, value in kill.items()), quick=False)
    (killed,) = runs(store)
    assert killed.info.status == "FAILED"
    train(f"resume={killed.info.run_id}", quick=False)
    whole = weights(store, train(*words, quick=False))
    resumed = weights(store, store.client.get_run(killed.info.run_id))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_torchrun_starts_any_module(store: Any, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*program, str(TESTS.parent / "scripts" / "train.py"), *WORDS, *RANKS, "trainer.max_epochs=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = runs(store)
    assert (run.info.status, run.data.metrics["test_samples"]) == ("FINISHED", 21)
