"""Object detection as a run: recorded, resumed, divided over ranks, swept, drawn, predicted and served."""

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from box_folders import CLASSES, draw_images, write_voc
from hydra.errors import InstantiationException
from optional_package import require_package
from PIL import Image
from recorded_runs import artifacts, newest_run

from lightning_modules.cli import predict
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_module, load_task
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow  # of the extra `detection`
NETWORK = ("model=fcos", "model.width=8", "model.head_depth=1")
QUICK = (
    "data=detection_folder", "data.format=voc", "data.size=[48,64]", "data.batch_size=4", *NETWORK, "task=detection",
    "augmentation=boxes", "optimizer.lr=5e-3", "trainer.max_epochs=2",
    "callbacks=[default,box_pictures,test_predictions]", "callbacks.last.every_s=0", "tracking.system_metrics_s=null",
    "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
STOP = ("+callbacks.stop._target_=kill_once_callbacks.StopOnce", "+callbacks.stop.batch=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and images with boxes in three parts."""
    require_package("faster_coco_eval")
    path = tmp_path_factory.mktemp("detection") / "store"
    shutil.copytree(empty_database.parent, path)
    write_voc(path / "rectangles", parts=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str, without: tuple[str, ...] = ()) -> Any:
        quick = [word for word in QUICK if word not in without]
        run(compose_run([*quick, f"data.root={folder}/rectangles", *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=boxes", "trainer.max_epochs=40", "scheduler=cosine")


def test_it_learns_and_records_losses_precision_and_counts_of_each_image(trained: Any) -> None:
    metrics = trained.data.metrics
    assert {"train/loss_class", "train/loss_box", "train/loss_centre", "val/loss", "val/map", "val/map_50"} <= set(
        metrics
    )
    assert metrics["val/map_50"] > 0.5
    assert metrics["test/map"] == pytest.approx(
        np.mean([metrics[f"test/class_map/{name}"] for name in CLASSES]), abs=1e-6
    )
    table = pd.read_parquet(artifacts(trained) / "predictions" / "test.parquet")
    assert [f"{kind}/{name}" for kind in ("target", "prediction") for name in CLASSES] == [*table.columns[1:-1]]
    assert table["loss"].mean() == pytest.approx(metrics["test/loss"], rel=1e-5)


def test_truth_and_detections_and_augmented_samples_are_drawn(trained: Any) -> None:
    with Image.open(artifacts(trained) / "pictures" / "boxes.png") as picture:
        assert picture.size == (3 * 66 + 2, 2 * 50 + 2)  # three validation images, above the truth
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    drawn = (pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] > 50) & (pixels[..., 2] < 90)  # class 0
    drawn |= (pixels[..., 1] > 160) & (pixels[..., 0] < 80)  # class 1
    assert drawn[:50].any() and drawn[52:].any()
    assert (artifacts(trained) / "pictures" / "augmented.png").is_file()


def test_predict_writes_boxes_in_pixels_of_the_files_and_draws_them(trained: Any, tmp_path: Path) -> None:
    drawn = draw_images(tmp_path / "images", count=4, seed=7)
    for file in (tmp_path / "images").glob("*.png"):  # twice as large
        with Image.open(file) as image:
            image.resize((128, 96)).save(file)
    (tmp_path / "images" / "broken.png").write_bytes(b"x")
    out, pictures = tmp_path / "boxes.csv", tmp_path / "drawn"
    words = [trained.info.run_id, f"input={tmp_path}/images", f"output={out}", f"pictures={pictures}"]
    predict.main(words)
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert rows
    assert {Path(row["file"]).name for row in rows} <= set(drawn) and {row["class"] for row in rows} <= set(CLASSES)
    assert sorted(file.name for file in pictures.iterdir()) == sorted(drawn)
    best = max((row for row in rows if drawn[Path(row["file"]).name]), key=lambda row: float(row["score"]))
    truth = [[2 * value for value in corners] for _, corners in drawn[Path(best["file"]).name]]
    found = [float(best[key]) for key in ("x1", "y1", "x2", "y2")]
    assert min(max(abs(a - b) for a, b in zip(found, corners, strict=True)) for corners in truth) < 16
    assert np.array_equal(np.asarray(Image.open(pictures / "0.png")).shape, (96, 128, 3))


def test_the_served_model_returns_detections_of_raw_images(trained: Any, folder: Path) -> None:
    import mlflow

    task: Any = load_module(best_checkpoint(open_store(), trained))
    x = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    served: Any = mlflow.pyfunc.load_model(f"models:/{trained.data.tags['touchstone.model_id']}")
    found = served.predict(x.numpy())
    assert found.shape == (2, 100, 6)
    with torch.no_grad():
        assert np.allclose(found, task.model.detect(task(x)).numpy(), atol=1e-5)


def test_an_onnx_file_takes_images_of_any_size_and_gives_all_boxes(trained: Any, tmp_path: Path) -> None:
    from lightning_modules.export.export import export_run
    from lightning_modules.export.runtime import load_exported

    exported, _ = export_run(open_store(), trained, "onnx", False, tmp_path)
    assert exported.agreement.max_error < 1e-3
    session, task = load_exported(tmp_path / "model.onnx"), load_task(best_checkpoint(open_store(), trained))
    x = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        rows = session(x)
        detections = task.scores(task(x))
        assert session(torch.zeros(1, 3, 75, 101, dtype=torch.uint8)).shape == (1, 10 * 13 + 5 * 7 + 3 * 4, 6)
    best = rows[..., 4:].amax((1, 2))  # no overlap removes the best of an image
    torch.testing.assert_close(best, detections[:, 0, 4], rtol=0, atol=1e-4)
    corners = torch.stack([one[one[:, 4:].amax(1).argmax(), :4] for one in rows])
    limits = torch.tensor([64.0, 48.0, 64.0, 48.0])
    torch.testing.assert_close(corners.clamp(min=0).minimum(limits), detections[:, 0, :4], rtol=0, atol=1e-2)


def test_widths_are_swept_and_compared_by_average_precision(folder: Path) -> None:
    from multirun import multirun

    from lightning_modules.api import compare

    words = [*QUICK, f"data.root={folder}/rectangles", "trainer.max_epochs=1", "seed=0,1", "model.width=4,8"]
    multirun([*words, "callbacks=default", "tracking.pictures=false", "sweep.name=widths"])
    table = compare("widths", metric="test/map", by=["model.width"])
    assert {str(width) for width in table["model.width"]} == {"4", "8"} and table["n"].tolist() == [2, 2]


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "kill_once_callbacks")
    whole = train("name=whole")
    with pytest.raises(SignalReceived):
        train("name=cut", *STOP, f"+callbacks.stop.mark={tmp_path}/stopped")
    cut = newest_run(open_store())
    run(compose_run([f"resume={cut.info.run_id}"]))
    cut = open_store().client.get_run(cut.info.run_id)
    first, second = (read_checkpoint(best_checkpoint(open_store(), one))["state_dict"] for one in (whole, cut))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    histories = [metric_histories(open_store(), one.info.run_id) for one in (whole, cut)]
    assert histories[0]["val/map"] == histories[1]["val/map"] and histories[0]["val/loss"] == histories[1]["val/loss"]


def test_two_ranks_evaluate_each_image_once_and_log_what_one_does(train: Any, trained: Any) -> None:
    weights = ("callbacks=default", "trainer.max_epochs=0", f"init_from={trained.info.run_id}")
    one = train(*weights, "name=one")
    two = train(*weights, "name=two", "trainer=ddp", "trainer.devices=2", "strategy.start_method=fork")
    names = [name for name in one.data.metrics if name.startswith("test/")]
    assert len(names) >= 5
    for name in names:
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], abs=1e-6), name


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_of_torchvision_train(train: Any, name: str) -> None:
    recorded = train(
        "model=torchvision_detector", f"model.name={name}", "trainer.max_epochs=1", "callbacks=default", "data.batch_size=2",
        "data.fraction=0.5", "tracking.pictures=false", without=NETWORK,
    )  # fmt: skip
    assert np.isfinite(recorded.data.metrics["val/loss"]) and "test/map" in recorded.data.metrics


def test_combinations_that_do_not_fit_are_named(train: Any) -> None:
    with pytest.raises(InstantiationException, match=r"ConvNet is no detector; try model=fcos"):
        train("model=convnet", without=NETWORK)
    with pytest.raises(InstantiationException, match="detection needs images"):
        run(compose_run(["data=tabular", "data.name=diabetes", "model=fcos", "task=detection"]))
