"""Hydra's own launchers and sweepers start runs, or are rejected with what to use instead."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optional_package import require_package

WORDS = ("seed=0,1", "trainer.max_epochs=1", "data.per_class=5", "model=linear", "tracking.system_metrics_s=null",
         "tracking.pictures=false", "callbacks.progress=null", "callbacks.summary=null")  # fmt: skip
# words -> runs in the store: those of the seeds, and our sweepers' own
WORKING = {("hydra/sweeper=basic", "hydra/launcher=basic"): 2}
REJECTED = {("hydra/launcher=basic",): "omit hydra/launcher", ("hydra/sweeper=basic",): "use hydra/launcher=basic"}


@pytest.mark.slow
@pytest.mark.parametrize("words", WORKING, ids=" ".join)
def test_it_starts_a_run_for_each_value(words: tuple[str, ...], command: Callable[..., Any], store: Any) -> None:
    done = command("train.py", "-m", *words, *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = store.client.search_runs([experiment.experiment_id for experiment in store.client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"] * WORKING[words]
    assert sorted(run.data.params["seed"] for run in runs if "seed" in run.data.params)[-2:] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("words", REJECTED, ids=" ".join)
def test_it_is_rejected_with_what_to_use(words: tuple[str, ...], command: Callable[..., Any]) -> None:
    done = command("train.py", "-m", *words, *WORDS)
    assert done.returncode == 1
    assert REJECTED[words] in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_it_starts_the_trials_of_a_module_of_the_user(launcher: str, command: Callable[..., Any], store: Any) -> None:
    """Our sweeper with a launcher of Hydra's plugins; the module and its data are not ours."""
    require_package(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    targets = ("task._target_=user_modules.Classifier", "data._target_=user_modules.Points", "+task.width=6,8")
    monitor = "task.monitor={metric: val_loss, mode: min}"
    words = (
        "task=lightning_module",
        "data=lightning_datamodule",
        *targets,
        monitor,
        "trainer.max_epochs=1",
        *WORDS[4:],
    )
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, "TOUCHSTONE_TRUST": "user_modules"}
    done = command("train.py", "-m", f"hydra/launcher={launcher}", *words, "sweep=two", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    runs = store.client.search_runs([experiment.experiment_id for experiment in store.client.search_experiments()])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert sorted(run.data.params["task.width"] for run in children) == ["6", "8"]
    assert all(run.data.metrics["test_samples"] == 21 for run in children)
