"""A run trains any LightningModule on any LightningDataModule, and says which services it lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import user_modules

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run as run_config
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.resume import best_checkpoint

QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)
BORING = "pytorch_lightning.demos.boring_classes"
MONITOR = "task.monitor={metric: val_loss, mode: min}"


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")


@pytest.fixture
def fit(train: Callable[..., Any]) -> Callable[..., Any]:
    def launch(task: str, data: str = "Points", *overrides: str) -> Any:
        names = {"task=lightning_module": ("task", task), "data=lightning_datamodule": ("data", data)}
        chosen = [
            word
            for group, (key, name) in names.items()
            for word in (group, f"{key}._target_={name if '.' in name else f'user_modules.{name}'}")
        ]
        return train(*chosen, *QUIET, "trainer.max_epochs=2", *overrides, quick=False)

    return launch


def last_checkpoint(store: Any, run: Any) -> dict[str, Any]:
    return torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)


def test_boring_model_runs_unmodified(fit: Callable[..., Any], store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(f"{BORING}.BoringModel", f"{BORING}.BoringDataModule")
    assert run.info.status == "FINISHED"
    assert last_checkpoint(store, run)["epoch"] == 1
    shown = capsys.readouterr().out
    assert "best weights: the last weights are kept" in shown
    assert "data fingerprint: declared by the config only" in shown
    assert "no example_input_array" in shown and "export: it needs what serving needs" in shown
    assert "data clean and split: only for our datamodules" in shown


def test_a_module_is_selected_tested_and_served_by_its_own_metric(fit: Callable[..., Any], store: Any) -> None:
    run = fit("Classifier", "Points", MONITOR, "+task.width=6", "trainer.max_epochs=3")
    history = [point.value for point in store.client.get_metric_history(run.info.run_id, "val_loss")]
    assert len(history) == 3
    assert run.data.metrics["test_samples"] == 21
    path = best_checkpoint(store, run)
    assert path.name == "best.ckpt"
    best = torch.load(path, weights_only=True)
    assert best["epoch"] == history.index(min(history))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    served = mlflow.pyfunc.load_model(str(path.parent)).predict(x)
    task = user_modules.Classifier(width=6)
    task.load_state_dict(best["state_dict"])
    assert np.allclose(served, task.eval()(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("task", ["Classifier", "GAN"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    fit: Callable[..., Any], train: Any, store: Any, task: str
) -> None:
    whole = fit(task, "Points", "trainer.max_epochs=4")
    assert "resume" not in whole.data.tags
    half = fit(task, "Points", "name=half")
    train("resume=half", "trainer.max_epochs=4", quick=False)
    resumed = store.client.get_run(half.info.run_id)
    expected, found = (last_checkpoint(store, run) for run in (whole, resumed))
    assert found["epoch"] == 3
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][name]), name
    logged = {key for key in whole.data.metrics if not key.startswith("system/")}
    for key in logged - {"epoch", "test_loss", "test_samples"}:
        points = [
            [(point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, key)]
            for run in (whole, resumed)
        ]
        assert points[0] == points[1], key


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("Classifier", "Points"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("GAN", "Points"), ("Classifier", "Stream"))),
    ],
)
def test_a_run_ended_within_an_epoch_is_killed_and_resumes(
    fit: Callable[..., Any],
    train: Any,
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    data: str,
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules,kill_once_callbacks")
    whole = fit(task, data, "trainer.max_epochs=3")
    stop = {"_target_": "kill_once_callbacks.StopOnce", "mark": f"'{tmp_path}/mark'", "batch": 2}
    with pytest.raises(SignalReceived):
        words = [f"+callbacks.stop.{key}={value}" for key, value in stop.items()]
        fit(task, data, "trainer.max_epochs=3", "name=killed", "callbacks.last.every_s=0", *words)
    (killed,) = store.search_runs("attributes.run_name = 'killed'")
    assert killed.info.status == "KILLED"
    assert killed.data.tags.get("resume") == ("approximate" if data == "Stream" else None)
    assert last_checkpoint(store, killed)["epoch"] == 0
    train("resume=killed", quick=False)
    assert store.client.get_run(killed.info.run_id).info.status == "FINISHED"
    expected, found = (last_checkpoint(store, run) for run in (whole, killed))
    assert (found["epoch"], found["global_step"]) == (expected["epoch"], expected["global_step"])
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][name]), name  # of this stream, too: it begins with each epoch


def test_checkpoints_load_in_plain_lightning(fit: Callable[..., Any], store: Any) -> None:
    run = fit("Classifier", "Points", "+task.width=6", "+task.activation={_target_: torch.nn.Tanh}")
    path = artifact_path(store, run, "checkpoints/last.ckpt")
    assert "activation" not in torch.load(path, weights_only=True)["hyper_parameters"]
    task = user_modules.Classifier.load_from_checkpoint(path, activation=torch.nn.Tanh())
    assert task.hparams["width"] == 6


def test_a_module_without_forward_is_not_published_as_servable(fit: Callable[..., Any], store: Any) -> None:
    from lightning_modules.run.serve import find_logged_model

    run = fit("GAN")
    assert "cannot be served: the task has no forward" in run.data.tags["mlflow.note.content"]
    with pytest.raises(UserError, match="cannot be served"):
        find_logged_model(store, run.info.run_id)


def test_what_cannot_be_loaded_again_is_found_before_the_first_step(fit: Callable[..., Any], store: Any) -> None:
    with pytest.raises(UserError, match="'history' holds more than tensors and plain values"):
        fit("WithObject")
    assert not store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model=mlp"], "model=mlp: user_modules.Classifier has no argument 'model'"),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1: user_modules.Classifier has no argument 'optimizer'"),
        (["augmentation=image_basic"], "augmentation: CropFlip needs images"),
        (
            ["compression=magnitude"],
            "compression=magnitude: the task has no module 'model': set compression.module to one of layers",
        ),
        (["callbacks=early_stopping"], "task.monitor.metric=NAME"),
        (["+task.widht=3"], "user_modules.Classifier has no argument 'widht'"),
        (["data.data_files=[nowhere.csv]"], "no file matches nowhere.csv"),
    ],
)
def test_what_the_task_does_not_support_is_named(fit: Callable[..., Any], overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        fit("Classifier", "Points", *overrides)


def test_data_files_are_the_fingerprint(fit: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    fingerprints = []
    for text in ("1", "1", "2"):
        (tmp_path / "a.csv").write_text(text)
        run = fit("GAN", "Points", f"data.data_files=['{tmp_path}/*.csv']", "trainer.max_epochs=1")
        fingerprints.append(run.data.tags["data.fingerprint"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert not fingerprints[0].startswith("declared:")


def test_ranks_share_the_samples_and_test_each_once(fit: Callable[..., Any]) -> None:
    run = fit("Classifier", "Points", "strategy=ddp", "trainer.devices=2")
    assert run.data.metrics["comm/world_size"] == 2
    assert run.data.metrics["test_samples"] == 21  # an odd number on two ranks


@pytest.mark.slow
def test_an_iterable_that_is_not_divided_by_rank_is_rejected(fit: Callable[..., Any]) -> None:
    assert fit("Classifier", "Stream", "strategy=ddp", "trainer.devices=2").info.status == "FINISHED"
    with pytest.raises(UserError, match="All ranks get the same batches"):
        fit("Classifier", "Stream", "strategy=ddp", "trainer.devices=2", "+data.by_rank=false")
    with pytest.raises(UserError, match="All ranks get the same batches"):  # which each rank would augment differently
        fit(
            "Classifier",
            "Stream",
            "strategy=ddp",
            "trainer.devices=2",
            "+data.by_rank=false",
            "augmentation=series_basic",
        )


def test_a_stream_of_unknown_length_is_trained(fit: Callable[..., Any]) -> None:
    run = fit("Classifier", "Stream", MONITOR)
    assert (run.info.status, run.data.tags["resume"]) == ("FINISHED", "approximate")
    assert "val_accuracy" in run.data.metrics


def test_files_are_predicted(fit: Callable[..., Any], store: Any, tmp_path: Path) -> None:
    from lightning_modules.run.predict import find_model, predict

    run = fit("Classifier", "Points", "trainer.max_epochs=1")
    np.save(tmp_path / "x.npy", np.zeros((3, 4), "float32"))
    with (tmp_path / "out.csv").open("w") as out:
        predict(*find_model(store, run.info.run_id), tmp_path / "x.npy", out)
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == "file,sample,value 0,value 1,value 2"
    assert len(rows) == 4


@pytest.mark.slow
def test_a_rerun_names_data_without_fingerprint(
    fit: Callable[..., Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.tracking.rerun import rerun

    run = fit("Classifier", "Points", "trainer.max_epochs=1")
    monkeypatch.setenv("PYTHONPATH", str(Path(user_modules.__file__).parent))
    rerun(run.info.run_id, here=True)
    shown = capfd.readouterr().out
    assert "all metrics are equal" in shown
    assert "they have no fingerprint" in shown


def test_a_network_gets_shapes_only_where_its_constructor_names_them(store: Any) -> None:
    cfg = compose_run(["data.per_class=10", "trainer.max_epochs=1", *QUIET])
    cfg.model = {"_target_": "user_modules.Network"}
    assert "test/accuracy" in run_config(cfg.copy())
    cfg.model = {"_target_": "user_modules.Network", "outputs": 9}
    with pytest.raises(UserError, match=r"returns \(9,\) values per sample, but the task needs model.num_outputs=10"):
        run_config(cfg)


def test_a_run_starts_from_a_checkpoint_of_plain_lightning(fit: Callable[..., Any], store: Any, tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(user_modules.Classifier(), user_modules.Points())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    run = fit("Classifier", "Points", f"init_from='{tmp_path}/plain.ckpt'", "trainer.max_epochs=0")
    expected = torch.load(tmp_path / "plain.ckpt", weights_only=True)["state_dict"]
    found = torch.load(best_checkpoint(store, run), weights_only=True)["state_dict"]
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    with pytest.raises(UserError, match="no checkpoint at"):
        fit("Classifier", "Points", "init_from=nowhere.ckpt")
    with pytest.raises(UserError, match="tensors do not match this model"):
        fit("Classifier", "Points", f"init_from='{tmp_path}/plain.ckpt'", "+task.width=5")
