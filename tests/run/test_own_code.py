"""What a user's own module brings: checkpoints, calls of MLflow, several validation loaders; finders; validation alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.model.checksum import load_verified
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.resume import best_checkpoint

QUIET = ("tracking.system_metrics_s=null", "callbacks.progress=null", "callbacks.summary=null")
CHECKPOINT = "_target_: pytorch_lightning.callbacks.ModelCheckpoint"
FINDER = "+callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateFinder, num_training_steps: 40}"


@pytest.fixture
def fit(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")

    def launch(task: str, *overrides: str, data: str = "Points") -> Any:
        groups = ("task=lightning_module", "data=lightning_datamodule")
        targets = (f"task._target_=user_modules.{task}", f"data._target_=user_modules.{data}")
        return train(*groups, *targets, *QUIET, "trainer.max_epochs=2", *overrides, quick=False)

    return launch


def listed(store: Any, run: Any, folder: str) -> list[str]:
    return sorted(file.path for file in store.client.list_artifacts(run.info.run_id, folder) if not file.is_dir)


def test_checkpoints_of_the_user_are_kept_and_listed(fit: Callable[..., Any], store: Any) -> None:
    mine = f"+callbacks.mine={{{CHECKPOINT}, monitor: val_loss, save_top_k: 2, filename: best}}"
    every = f"+callbacks.every={{{CHECKPOINT}, monitor: val_accuracy, mode: max, save_last: true, filename: x}}"
    run = fit("Classifier", "task.monitor={metric: val_loss, mode: min}", mine, every)
    own = listed(store, run, "checkpoints/own")
    assert [name.rpartition("/")[2] for name in own] == ["best-v1.ckpt", "best.ckpt", "last.ckpt", "x.ckpt"]
    for name in own:
        assert load_verified(artifact_path(store, run, name))["state_dict"]
    assert listed(store, run, "checkpoints") == ["checkpoints/last.ckpt"]
    assert [path.name for path in best_checkpoint(store, run).parent.glob("*.ckpt")] == ["best.ckpt"]


def test_checkpoints_that_the_module_configures_replace_none_of_ours(fit: Callable[..., Any], store: Any) -> None:
    run = fit("WithCheckpoints", "task.monitor={metric: val_loss, mode: min}")
    names = ["checkpoints/own/low-step=10.ckpt", "checkpoints/own/low-step=5.ckpt"]
    assert listed(store, run, "checkpoints/own") == names
    assert best_checkpoint(store, run).name == "best.ckpt"
    states = load_verified(artifact_path(store, run, "checkpoints/last.ckpt"))["callbacks"]
    (own,) = (state for key, state in states.items() if "train_loss" in key)
    assert {Path(path).name for path in own["best_k_models"]} == {"low-step=5.ckpt", "low-step=10.ckpt"}


@pytest.fixture
def no_autolog() -> Iterator[None]:
    yield
    mlflow.autolog(disable=True)


@pytest.mark.usefixtures("no_autolog")
def test_what_user_code_sends_to_mlflow_is_in_the_same_run(fit: Callable[..., Any], store: Any) -> None:
    before = mlflow.get_tracking_uri()
    run = fit("WritesToMLflow", "+task.autolog=true")
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert len(store.client.search_runs(experiments)) == 1
    assert run.data.params["mine"] == "3" and run.data.params["by_experiment"] == "4"
    assert run.data.metrics["my/metric"] == 0.5
    assert {"at.fit", "at.test"} <= run.data.tags.keys()
    assert run.info.status == "FINISHED"
    assert artifact_path(store, run, "mine/hello.txt").read_text() == "hello"
    assert mlflow.active_run() is None and mlflow.get_tracking_uri() == before


def test_a_failed_run_is_not_set_to_finished_by_mlflow(fit: Callable[..., Any], store: Any) -> None:
    with pytest.raises(Exception, match="nothing_like_this"):
        fit("WritesToMLflow", "task.monitor={metric: nothing_like_this, mode: min}")
    [run] = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])
    assert run.info.status == "FAILED" and mlflow.active_run() is None


@pytest.mark.slow
def test_on_two_ranks_and_in_a_sweep_too(
    fit: Callable[..., Any], store: Any, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit("WritesToMLflow", "strategy=ddp", "trainer.devices=2")
    assert (run.info.status, run.data.params["mine"], run.data.metrics["my/metric"]) == ("FINISHED", "3", 0.5)
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert len(store.client.search_runs(experiments)) == 1
    targets = ("task._target_=user_modules.WritesToMLflow", "data._target_=user_modules.Points")
    words = ("task=lightning_module", "data=lightning_datamodule", *targets, *QUIET, "trainer.max_epochs=1", "seed=0,1")
    import os
    from pathlib import Path

    import user_modules

    folders = [str(Path(str(user_modules.__file__)).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = command("train.py", "-m", *words, PYTHONPATH=os.pathsep.join(folders))
    assert done.returncode == 0, done.stdout + done.stderr
    runs = store.client.search_runs([experiment.experiment_id for experiment in store.client.search_experiments()])
    assert [run.data.params["mine"] for run in runs] == ["3"] * 4  # of the sweep's own run too: its trials share it


def test_one_of_several_validation_loaders_is_monitored(fit: Callable[..., Any], store: Any) -> None:
    monitor = "task.monitor={metric: val_loss/dataloader_idx_1, mode: min}"
    run = fit("ValidatedTwice", monitor, "callbacks=early_stopping", data="TwoValidationLoaders")
    assert {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"} <= run.data.metrics.keys()
    history = [p.value for p in store.client.get_metric_history(run.info.run_id, "val_loss/dataloader_idx_1")]
    best = torch.load(best_checkpoint(store, run), weights_only=True)
    assert best["epoch"] == history.index(min(history))


@pytest.mark.parametrize("task", ["Classifier", None])
def test_weights_are_validated_without_training(fit: Any, train: Any, store: Any, task: str | None) -> None:
    launch = (lambda *words: fit(task, *words)) if task else (lambda *words: train("model=linear", *words))
    metric = "val_loss" if task else "val/loss"
    first = launch("callbacks=last")
    again = launch(f"init_from='{first.info.run_id}'", "trainer.max_epochs=0", "trainer.limit_test_batches=0")
    assert again.data.metrics[metric] == pytest.approx(first.data.metrics[metric], rel=1e-6)
    assert not any(name.startswith("test") for name in again.data.metrics)


@pytest.mark.slow
def test_the_learning_rate_finder_sets_the_rate(fit: Callable[..., Any], train: Callable[..., Any]) -> None:
    words = ("model=linear", "data.per_class=60", "data.batch_size=8", "trainer.max_epochs=2")
    assert train(*words, FINDER).data.metrics["lr-AdamW"] != 0.002
    with pytest.raises(UserError, match="use scheduler=none"):
        train(*words, FINDER, "scheduler=cosine")
    run = fit("Classifier", "+data.samples=400", "trainer.max_epochs=3", FINDER)
    assert run.data.metrics["lr-SGD"] < 0.1 * 0.9**2
    size = "+callbacks.size={_target_: pytorch_lightning.callbacks.BatchSizeFinder, max_trials: 2}"
    assert fit("Classifier", size).info.status == "FINISHED"
