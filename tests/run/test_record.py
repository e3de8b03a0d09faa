"""What stands in the store after one run, read back from the store."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.plain import flatten
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_task
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.params import BOOKKEEPING
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

LONG = "x" * 900


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """(store, run) of one small training of digits on an empty store, whose folder has a space in its name."""
    folder = tmp_path_factory.mktemp("a store")
    before = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    run(
        compose_run(
            [
                "model=mlp",
                "trainer.max_epochs=3",
                "trainer.log_every_n_steps=1",
                f"+debug.note={LONG}",
                "+debug.api_key=hunter2",
                "~callbacks.progress",
                "~callbacks.summary",
            ]
        )
    )
    store = open_store()
    yield store, store.client.search_runs(["1"])[0]
    os.environ.clear()
    os.environ.update(before)


def folder_of(run: Any) -> Path:
    from urllib.parse import unquote, urlparse

    return Path(unquote(urlparse(run.info.artifact_uri).path))


def test_a_finished_run_is_marked_finished(recorded: Any) -> None:
    assert recorded[1].info.status == "FINISHED"


def test_every_leaf_of_the_config_but_bookkeeping_is_a_param_and_none_is_cut(recorded: Any) -> None:
    params = recorded[1].data.params
    config = yaml.safe_load((folder_of(recorded[1]) / "config/config.yaml").read_text())
    config.pop("choices")
    missing = flatten(config).keys() - params.keys()
    assert {key for key in missing if not BOOKKEEPING.match(key)} == {"data.seed"}  # a copy of the seed
    assert params["debug.note"] == LONG
    assert params["optimizer.lr"] == str(config["optimizer"]["lr"])
    assert (params["data"], params["model"]) == ("digits", "mlp")


def test_a_secret_in_the_config_reaches_no_param_and_no_artifact(recorded: Any) -> None:
    run = recorded[1]
    assert run.data.params["debug.api_key"] == "***"
    texts = [
        path.read_text(errors="replace")
        for path in folder_of(run).rglob("*")
        if path.suffix in (".yaml", ".json", ".txt")
    ]
    assert texts and not any("hunter2" in text for text in texts)
    assert not any("hunter2" in value for value in run.data.tags.values())


def test_points_have_their_names_and_steps(recorded: Any) -> None:
    found = metric_histories(*((recorded[0], recorded[1].info.run_id)))
    assert [step for step, _ in found["train/loss"]] == list(range(60))
    assert [step for step, _ in found["val/accuracy"]] == [20, 40, 60]
    assert {"test/accuracy", "test/f1", "test/auroc", "test/top5_accuracy", "test/class_accuracy/7"} <= found.keys()


def test_each_epoch_says_how_many_samples_a_second_it_trained_on(recorded: Any) -> None:
    points = recorded[0].client.get_metric_history(recorded[1].info.run_id, "throughput/samples_per_s")
    assert [point.step for point in points] == [20, 40, 60]
    assert all(point.value > 0 for point in points)


def test_code_environment_and_data_are_recorded(recorded: Any) -> None:
    tags, folder = recorded[1].data.tags, folder_of(recorded[1])
    assert len(tags["mlflow.source.git.commit"]) == 40 or tags["git.note"]
    assert tags["git.dirty"] in ("true", "false")
    assert (folder / "code/diff.patch").exists() == (tags["git.dirty"] == "true")
    assert "torch==" in (folder / "environment/requirements.txt").read_text()
    machine = json.loads((folder / "environment/hardware.json").read_text())
    assert machine["python"]
    assert len(tags["data.fingerprint"]) == 64
    dataset = recorded[1].inputs.dataset_inputs[0].dataset
    assert dataset.name == "digits" and tags["data.fingerprint"].startswith(dataset.digest)
    assert tags["touchstone.command"]


def test_system_metrics_are_there_even_for_a_short_run(recorded: Any) -> None:
    assert any(name.startswith("system/cpu") for name in recorded[1].data.metrics)


def test_a_checkpoint_is_on_disk_once_and_holds_plain_values(recorded: Any) -> None:
    store, run = recorded
    root = Path(store.uri.removeprefix("sqlite:///")).parent
    files = sorted(path.name for path in root.rglob("*.ckpt"))
    assert files == ["best.ckpt", "last.ckpt"]
    best = best_checkpoint(store, run)
    for path in (best, folder_of(run) / "checkpoints/last.ckpt"):
        assert "state_dict" in torch.load(path, weights_only=True)
    assert "optimizer_states" in read_checkpoint(folder_of(run) / "checkpoints/last.ckpt")


def test_the_best_weights_are_a_ready_model_with_its_metrics(recorded: Any) -> None:
    store, run = recorded
    model = store.client.get_logged_model(run.data.tags["touchstone.model_id"])
    assert str(model.status) in ("READY", "LoggedModelStatus.READY")
    assert {metric.key: metric.value for metric in model.metrics}["test/accuracy"] == run.data.metrics["test/accuracy"]
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_the_served_model_gives_the_recorded_accuracy_on_raw_samples(recorded: Any) -> None:
    import mlflow

    from lightning_modules.zoo.data.image_datasets import Digits

    store, run = recorded
    mlflow.set_tracking_uri(store.uri)
    try:
        served = mlflow.pyfunc.load_model(f"models:/{run.data.tags['touchstone.model_id']}")
    finally:
        mlflow.set_tracking_uri(None)  # it is this whole process's: other tests have stores of their own
    data = Digits()
    data.setup()
    index = data.splits["test"]
    probabilities = torch.from_numpy(served.predict(data.arrays.x[index].numpy()))
    assert torch.allclose(probabilities.sum(1), torch.ones(len(index)), atol=1e-5)
    accuracy = (probabilities.argmax(1) == data.arrays.y[index]).float().mean()
    assert float(accuracy) == pytest.approx(run.data.metrics["test/accuracy"])


def test_a_checkpoint_is_rebuilt_without_its_data(recorded: Any) -> None:
    task = load_task(best_checkpoint(*recorded))
    assert task(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


def test_pictures_are_drawn(recorded: Any) -> None:
    folder = folder_of(recorded[1]) / "pictures"
    pictures = {path.name: path.stat().st_size for path in folder.glob("*.png")}
    assert pictures.keys() == {"confusion_matrix.png", "curves.png", "roc.png"}
    assert min(pictures.values()) > 5000
    matrix = pd.read_csv(folder / "confusion_matrix.csv", index_col=0).to_numpy()
    assert matrix.sum() == 359 and matrix.trace() / 359 == pytest.approx(recorded[1].data.metrics["test/accuracy"])
