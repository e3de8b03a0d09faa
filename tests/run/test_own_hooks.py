"""What modules write into their checkpoints, how trainings end that train or validate nothing, or diverge."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import user_modules

from lightning_modules import compose, load, run, runs
from lightning_modules.config.check import check_config
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.resume import best_checkpoint

QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "trainer.max_epochs=1",
)
MONITOR = "task.monitor={metric: val_loss, mode: min}"


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")


def config(task: str, data: str = "Points", *overrides: str) -> Any:
    chosen = [f"task._target_=user_modules.{task}", f"data._target_=user_modules.{data}"]
    return compose(["task=lightning_module", "data=lightning_datamodule", *chosen, *QUIET, *overrides])


@pytest.mark.parametrize("monitor", ["task.monitor.metric=null", pytest.param(MONITOR, marks=pytest.mark.slow)])
def test_entries_of_a_checkpoint_hook_are_in_every_file(store: Any, monitor: str) -> None:
    result = run(config("WithEntries", "Points", monitor))
    recorded = store.client.get_run(str(result.run_id))
    path = best_checkpoint(store, recorded)
    assert path.name == ("best.ckpt" if monitor == MONITOR else "last_weights.ckpt")
    assert load(str(result.run_id)).read == 3
    assert user_modules.WithEntries.load_from_checkpoint(path).read == 3
    last = artifact_path(store, recorded, "checkpoints/last.ckpt")
    assert (
        load(str(run(config("WithEntries", "Points", f"init_from='{last}'", "trainer.max_epochs=0")).run_id)).read == 3
    )


def test_layers_of_configure_model_are_loaded_and_served_again(store: Any) -> None:
    result = run(config("BuiltLater"))
    recorded = store.client.get_run(str(result.run_id))
    served: Any = mlflow.pyfunc.load_model(f"models:/{recorded.data.tags['touchstone.model_id']}")
    assert served.predict(np.zeros((5, 4), np.float32)).shape == (5, 3)
    trained = torch.load(artifact_path(store, recorded, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    start = f"init_from={result.run_id}"
    for loaded in (
        load(str(result.run_id)),
        load(str(run(config("BuiltLater", "Points", start, "trainer.max_epochs=0")).run_id)),
    ):
        assert all(torch.equal(value, trained[name]) for name, value in loaded.state_dict().items())


def test_a_module_that_cannot_be_copied_is_trained_and_not_served(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = store.client.get_run(str(run(config("BuiltWithLock")).run_id))
    assert recorded.info.status == "FINISHED"
    assert "cannot be served: configure_model fails on a copy without a trainer" in " ".join(
        capsys.readouterr().out.split()
    )


def test_layers_of_setup_that_could_not_be_loaded_are_named_before_the_first_step(store: Any) -> None:
    with pytest.raises(UserError, match=r"task: setup adds layers\.4\.weight, layers\.4\.bias, which a task rebuilt"):
        run(config("BuiltInSetup"))
    (recorded,) = store.search_runs("")
    assert recorded.info.status == "FAILED" and "val_loss" not in recorded.data.metrics


def test_loaders_of_the_task_are_used_where_the_data_have_none(store: Any) -> None:
    bare = "data._target_=pytorch_lightning.LightningDataModule"
    results = [
        run(config(task, "Points", *more)) for task, more in (("Classifier", ()), ("OwnLoaders", (bare, MONITOR)))
    ]
    metrics = [store.client.get_run(str(result.run_id)).data.metrics for result in results]
    assert metrics[0]["val_loss"] == metrics[1]["val_loss"] and metrics[1]["test_samples"] == 21
    augmented = run(config("OwnLoaders", "Points", bare, MONITOR, "augmentation=series_basic"))
    assert store.client.get_run(str(augmented.run_id)).data.metrics["val_loss"] != metrics[0]["val_loss"]
    data = pl.LightningDataModule()
    run(compose(["task=lightning_module", "data=lightning_datamodule", *QUIET]), user_modules.OwnLoaders(), data)
    with pytest.raises(UserError, match="data: LightningDataModule has no train_dataloader, and neither has the task"):
        run(compose(["task=lightning_module", "data=lightning_datamodule", *QUIET]), user_modules.Classifier(), data)


def test_a_monitored_metric_that_mlflow_does_not_take_is_named_at_the_start(store: Any) -> None:
    with pytest.raises(
        UserError, match=r"task.monitor.metric=acc@5: MLflow does not allow .*; log the metric as 'acc_5'"
    ):
        run(config("Classifier", "Points", "task.monitor={metric: acc@5, mode: max}"))


def test_lazy_layers_without_shapes_are_named_before_the_run(store: Any) -> None:
    with pytest.raises(UserError, match=r"the shapes of layers\.0\.weight, .* set example_input_array"):
        run(config("Lazy"))


def test_a_file_without_the_entries_is_named(store: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": user_modules.Classifier().state_dict()}, tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match=r"init_from=.*plain.ckpt has no entry 'mine', which on_load_checkpoint"):
        run(config("WithEntries", "Points", f"init_from='{tmp_path}/plain.ckpt'"))


@pytest.mark.parametrize("given", ["config", pytest.param("objects", marks=pytest.mark.slow)])
def test_a_diverged_run_says_what_is_not_finite(store: Any, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    objects = (user_modules.Diverging(), user_modules.Points()) if given == "objects" else ()
    result = run(compose(["task=lightning_module", *QUIET]) if objects else config("Diverging"), *objects)
    assert "warning: NaN or infinite at the end of the run: layers.0.weight" in capsys.readouterr().err
    recorded = store.client.get_run(str(result.run_id))
    assert recorded.info.status == "FINISHED"
    assert "test_loss" in recorded.data.tags["touchstone.not_finite"]


@pytest.mark.parametrize("length", ["known", pytest.param("unknown", marks=pytest.mark.slow)])
def test_training_data_without_a_batch_end_the_run(store: Any, length: str) -> None:
    with pytest.raises(UserError, match=r"data: .*train_dataloader.* no batch"):
        run(config("Classifier", "NoSamples", f"+data.stream={length == 'unknown'}"))
    assert runs().status[0] == "FAILED"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["NotValidated", MONITOR], "task.monitor.metric=val_loss: nothing is validated"),
        (
            ["NotValidated", "task.monitor={metric: my_loss, mode: min}"],
            "my_loss: .*not logged",
        ),
        pytest.param(
            ["Points", MONITOR, "trainer.limit_val_batches=0"],
            "val_loss: .*not logged.* train_loss",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_metric_that_nothing_logs_is_not_monitored(store: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(config("Classifier", *overrides))


@pytest.mark.slow
def test_a_training_metric_selects_without_validation(store: Any) -> None:
    result = run(config("Classifier", "NotValidated", "task.monitor={metric: train_loss, mode: min}"))
    assert best_checkpoint(store, store.client.get_run(str(result.run_id))).name == "best.ckpt"


def test_a_summary_does_not_call_a_forward_that_the_task_lacks(store: Any) -> None:
    result = run(config("OnlyPredicts"))
    assert load(str(result.run_id)).predict_step(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("target", ["user_modules.Classifier", "user_modules.Missing"])
def test_a_task_of_a_users_config_needs_no_monitor(tmp_path: Path, target: str) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "Mine.yaml").write_text(f"_target_: {target}\nwidth: 4\n")
    cfg = compose([f"hydra.searchpath=[file://{tmp_path}]", "task=Mine", "data=lightning_datamodule",
                   "data._target_=user_modules.Points", *QUIET])  # fmt: skip
    if target == "user_modules.Missing":
        with pytest.raises(UserError, match=r"(?s)^A mistake in the config:.*Missing"):
            check_config(cfg)
        return
    check_config(cfg)
    assert cfg.task.monitor.metric is None
    assert cfg.callbacks.best is None


@pytest.mark.slow
def test_where_the_data_come_from_is_said(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError):
        run(compose(["task=lightning_module", *QUIET]), user_modules.Classifier())
    assert "data: digits (the config's default)" in capsys.readouterr().out


def test_a_metric_of_the_end_of_the_epoch_selects(store: Any) -> None:
    result = run(config("LogsAtTheEnd", "Points", "task.monitor={metric: my_loss, mode: min}"))
    assert best_checkpoint(store, store.client.get_run(str(result.run_id))).name == "best.ckpt"


@pytest.mark.parametrize(
    ("task", "data", "metric"), [("LogsAtTheEnd", "NotValidated", "val_own"), ("Classifier", "Points", "by_callback")]
)
def test_a_metric_of_a_hook_at_the_end_of_an_epoch_is_monitored(task: str, data: str, metric: str, store: Any) -> None:
    callback = "+callbacks.mine._target_=user_modules.LogAtTheEnd"
    result = run(config(task, data, f"task.monitor={{metric: {metric}, mode: min}}", callback))
    recorded = store.client.get_run(str(result.run_id))
    assert best_checkpoint(store, recorded).name == "best.ckpt"
    states = torch.load(artifact_path(store, recorded, "checkpoints/last.ckpt"), weights_only=True)["callbacks"]
    assert not [key for key in states if "MonitoredMetric" in key]
