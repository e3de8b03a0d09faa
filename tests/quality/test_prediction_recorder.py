"""Test predictions per sample of real runs: what the file says is what was measured."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lightning_modules.config.command_line import compose_run
from lightning_modules.quality.metric_intervals import bootstrap
from lightning_modules.quality.prediction_recorder import FILE, sample_losses
from lightning_modules.run.data_adapter import open_data
from lightning_modules.run.run import run
from lightning_modules.task.classification import Classification
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.store import open_store

QUICK = (
    "callbacks=[default,test_predictions]", "~callbacks.progress", "~callbacks.summary", "tracking.pictures=false",
    "tracking.system_metrics_s=null", "model=linear", "trainer.max_epochs=2",
)  # fmt: skip
TABLE = ("data=tabular", "data.eval_batch_size=7")


def launch(uri: str, *words: str) -> tuple[Any, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        run(compose_run([*QUICK, *words]))
        store = open_store()
        newest = store.newest_run("", store.experiment("touchstone"))
    folder = local_folder(newest.info.artifact_uri)
    assert folder is not None
    return newest, folder


@pytest.fixture(scope="module")
def uri(new_store: Callable[[], str]) -> str:
    return new_store()


@pytest.fixture(scope="module")
def digits(uri: str) -> tuple[Any, Path]:
    return launch(uri, "callbacks.test_predictions.intervals=all", "callbacks.test_predictions.resamples=50")


def test_the_file_has_each_test_sample_once_and_gives_the_metrics(digits: tuple[Any, Path]) -> None:
    found, folder = digits
    table, logged = pd.read_parquet(folder / FILE), found.data.metrics
    assert table["sample"].is_unique and len(table) == int(found.data.tags["data.test_samples"])
    assert (table["target"] == table["prediction"]).mean() == pytest.approx(logged["test/accuracy"])
    assert table["loss"].mean() == pytest.approx(logged["test/loss"], rel=1e-5)
    scores = table[[f"score/{i}" for i in range(10)]].to_numpy()
    assert scores.sum(1) == pytest.approx(1, abs=1e-5) and (scores.argmax(1) == table["prediction"]).all()
    likelihood = scores[np.arange(len(table)), table["target"]]
    assert -np.log(likelihood) == pytest.approx(table["loss"], rel=1e-3, abs=1e-5)


def test_the_index_is_that_of_the_data(digits: tuple[Any, Path]) -> None:
    data: Any = open_data(compose_run([])).own
    table = pd.read_parquet(digits[1] / FILE)
    assert table["sample"].tolist() == sorted(data.splits["test"].tolist())
    assert table["target"].tolist() == data.arrays.y[torch.tensor(table["sample"])].tolist()


def test_the_worst_errors_are_a_table_and_a_picture(digits: tuple[Any, Path]) -> None:
    worst, table = pd.read_csv(digits[1] / "predictions/worst.csv"), pd.read_parquet(digits[1] / FILE)
    assert worst["loss"].tolist() == pytest.approx(sorted(table["loss"], reverse=True)[:32], rel=1e-5)
    assert (digits[1] / "predictions/worst.png").stat().st_size > 10_000


def test_the_summary_has_the_intervals(digits: tuple[Any, Path]) -> None:
    found, folder = digits
    intervals = json.loads((folder / "predictions/intervals.json").read_text())
    assert {"test/loss", "test/accuracy", "test/f1", "test/auroc"} <= intervals["metrics"].keys()
    for name, ends in intervals["metrics"].items():
        assert ends["low"] < found.data.metrics[name] < ends["high"], name
    note = found.data.tags["mlflow.note.content"]
    assert (
        f"95% percentile bootstrap over {len(pd.read_parquet(folder / FILE))} test samples, 50 resamples, seed 0"
        in note
    )
    assert f"{intervals['metrics']['test/accuracy']['low']:.4f} to" in note
    assert not [key for key in found.data.params if "test_predictions." in key]


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (("data.name=breast_cancer", "task=binary"), {"target", "prediction", "score", "loss", "sample"}),
        (("data.name=diabetes", "task=regression"), {"target", "prediction", "loss", "sample"}),
    ],
)
def test_other_tasks(uri: str, words: tuple[str, ...], columns: set[str]) -> None:
    found, folder = launch(uri, *TABLE, *words)
    table, logged = pd.read_parquet(folder / FILE), found.data.metrics
    assert set(table) == columns and table["loss"].mean() == pytest.approx(logged["test/loss"], rel=1e-4)
    wrong = (table["target"] - table["prediction"]).abs().mean()
    assert wrong == pytest.approx(1 - logged["test/accuracy"] if "score" in columns else logged["test/mae"], rel=1e-4)
    intervals = json.loads((folder / "predictions/intervals.json").read_text())["metrics"]
    assert intervals.keys() == (
        {"test/loss", "test/accuracy"} if "score" in columns else {f"test/{m}" for m in ("loss", "mse", "mae")}
    )
    assert (folder / "predictions/worst.png").exists()


def test_several_labels_have_a_column_each(uri: str, tmp_path: Path) -> None:
    digits = load_digits()
    frame = pd.DataFrame(digits.data[:600], columns=[f"pixel{i}" for i in range(64)])
    frame["even"], frame["big"] = (digits.target[:600] % 2 == 0).astype(int), (digits.target[:600] > 4).astype(int)
    frame.to_csv(tmp_path / "labels.csv", index=False)
    words = ("data.name=null", f"data.path={tmp_path}/labels.csv", "data.target=[even,big]", "task=multilabel")
    found, folder = launch(uri, *TABLE, *words)
    table, logged = pd.read_parquet(folder / FILE), found.data.metrics
    named = [f"{kind}/{label}" for kind in ("target", "prediction", "score") for label in ("even", "big")]
    assert set(table) == {"sample", "loss", *named}
    right = [(table[f"target/{label}"] == table[f"prediction/{label}"]).mean() for label in ("even", "big")]
    assert np.mean(right) == pytest.approx(logged["test/accuracy"])
    assert table["loss"].mean() == pytest.approx(logged["test/loss"], rel=1e-4)
    assert len(pd.read_csv(folder / "predictions/worst.csv")) == 32


def test_a_ranking_has_the_rank_of_each_held_out_item(uri: str, tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    draws = random.Random(0)
    rows = [
        (user, item, 5, 100 * user + n) for user in range(1, 9) for n, item in enumerate(draws.sample(range(1, 13), 6))
    ]
    (tmp_path / "ml-100k/u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    words = ("data=movielens_implicit", f"data.root={tmp_path}", "model=bpr", "task=ranking")
    found, folder = launch(uri, *words)
    table = pd.read_parquet(folder / FILE)
    assert {"sample", "target/0", "target/1", "prediction/0", "loss"} <= set(table)  # and the scores in the loss
    assert table["target/0"].tolist() == list(range(8)) and table["prediction/0"].between(1, 12).all()
    hits = (table["prediction/0"] <= 10).mean()
    assert hits == pytest.approx(found.data.metrics["test/hit_rate_at_10"])
    assert table["loss"].mean() == pytest.approx(found.data.metrics["test/loss"], rel=1e-4)


def test_the_test_of_a_resumed_run_replaces_the_predictions(uri: str) -> None:
    first, folder = launch(uri, "data.per_class=10", "trainer.max_epochs=1")
    before = pd.read_parquet(folder / FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        run(compose_run(["trainer.max_epochs=8", f"resume={first.info.run_id}"]))
        logged = open_store().client.get_run(first.info.run_id).data.metrics
    table = pd.read_parquet(folder / FILE)
    assert table[["sample", "target"]].equals(before[["sample", "target"]])
    assert not table["loss"].equals(before["loss"])
    assert (table["target"] == table["prediction"]).mean() == pytest.approx(logged["test/accuracy"])


def test_what_is_too_large_is_off_and_says_so(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, folder = launch(uri, "data.per_class=10", "callbacks.test_predictions.max_values=3000")
    said = capfd.readouterr().err
    assert re.search(r"predictions: off: 3\d+ values are more than callbacks.test_predictions.max_values=3000", said)
    assert not (folder / "predictions").exists()


def test_a_task_of_another_kind_and_a_run_without_a_record_say_so(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    demo, own = "pytorch_lightning.demos.boring_classes", ("task=lightning_module", "data=lightning_datamodule")
    launch(uri, *own, f"task._target_={demo}.BoringModel", f"data._target_={demo}.BoringDataModule", "~model")
    assert "test predictions: off: BoringModel is not derived from Supervised" in capfd.readouterr().err
    run(compose_run([*(word for word in QUICK if "tracking" not in word), "tracking=none", "data.per_class=10"]))
    assert "test predictions: off: the run is not recorded" in capfd.readouterr().err


@pytest.mark.slow
def test_two_ranks_give_each_sample_once(uri: str, digits: tuple[Any, Path]) -> None:
    found, folder = launch(uri, "trainer=ddp", "data.eval_batch_size=50")
    table, one = pd.read_parquet(folder / FILE), pd.read_parquet(digits[1] / FILE)
    assert table[["sample", "target"]].equals(one[["sample", "target"]])
    right = (table["target"] == table["prediction"]).mean()
    assert right == pytest.approx(found.data.metrics["test/accuracy"])


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_a_loss_without_a_reduction_is_that_of_each_sample_alone(loss: nn.Module) -> None:
    class Own(nn.Module):
        def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return loss(outputs, y)

    outputs, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    named, own = (Classification(nn.Identity(), part, num_outputs=3) for part in (loss, Own()))
    assert torch.allclose(sample_losses(named, outputs, y), sample_losses(own, outputs, y))
    assert loss.reduction == "mean"


def test_intervals_have_a_generator_of_their_own_and_cover_the_mean_as_often_as_they_say() -> None:
    draws, hits = np.random.default_rng(0), 0
    states = random.getstate(), torch.random.get_rng_state().clone()
    for _ in range(100):
        right = draws.random(200) < 0.8
        table = pd.DataFrame({"target": 1, "prediction": right.astype(int), "loss": draws.random(200)})
        found = bootstrap(table, {"test/accuracy": right.mean()}, 300, 0)
        assert found == bootstrap(table, {"test/accuracy": right.mean()}, 300, 0) and found.keys() == {"test/accuracy"}
        hits += found["test/accuracy"][0] <= 0.8 <= found["test/accuracy"][1]
    assert 88 <= hits <= 99
    assert states[0] == random.getstate() and torch.equal(states[1], torch.random.get_rng_state())
