"""A segmentation as a run: recorded, resumed, divided between ranks, swept, predicted, exported and served."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from recorded_runs import artifacts, newest_run

from lightning_modules.cli import predict
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_task
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

QUICK = (
    "data=segmentation_folder", "data.gray=true", "data.classes={background: 0, square: 255}", "model=unet",
    "model.width=4", "model.depth=2", "task=segmentation", "augmentation=masks_basic", "optimizer.lr=0.01",
    "trainer.max_epochs=3", "tracking.system_metrics_s=null", "tracking.pictures=false", "callbacks.last.every_s=0",
    "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and 30 images 24x24 of bright squares on noise; the first image has none."""
    path = tmp_path_factory.mktemp("masks") / "store"
    shutil.copytree(empty_database.parent, path)
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (path / "squares" / kind).mkdir(parents=True)
    for number in range(30):
        mask = np.zeros((24, 24), np.uint8)
        top, left = random.integers(12, size=2)
        mask[top : top + 9, left : left + 9] = 255 * (number > 0)
        image = (mask * 0.5 + random.integers(0, 90, mask.shape)).astype(np.uint8)
        Image.fromarray(image).save(path / "squares" / "images" / f"{number}.png")
        Image.fromarray(mask).save(path / "squares" / "masks" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str) -> Any:
        run(compose_run([*QUICK, f"data.root={folder}/squares", *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=squares", "callbacks=[default,test_predictions]", "tracking.pictures=true")


@pytest.mark.slow
def test_metrics_pictures_and_a_row_for_each_image_are_recorded(trained: Any) -> None:
    metrics = trained.data.metrics
    assert metrics["test/pixel_accuracy"] > 0.9 and metrics["test/loss"] < 0.4
    assert 0.8 < metrics["train/pixel_accuracy"] < 1
    per_class = [metrics[f"test/class_iou/{name}"] for name in ("background", "square")]
    assert metrics["test/mean_iou"] == pytest.approx(np.mean(per_class), rel=1e-6)
    for name in ("masks", "augmented"):
        with Image.open(artifacts(trained) / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    rows = pd.read_parquet(artifacts(trained) / "predictions" / "test.parquet")
    assert len(rows) == 6 and rows["loss"].mean() == pytest.approx(metrics["test/loss"], rel=1e-5)
    right = rows["prediction/background"].sum() + rows["prediction/square"].sum()
    assert right / (6 * 24 * 24) == pytest.approx(metrics["test/pixel_accuracy"], rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_is_bit_equal(train: Any, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Supervised.on_train_epoch_start

    def begin(self: Supervised) -> None:
        start(self)
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", begin)
        train("name=cut")
    store = open_store()
    killed = newest_run(store)
    run(compose_run([f"resume={killed.info.run_id}"]))
    assert metric_histories(store, killed.info.run_id) == metric_histories(store, trained.info.run_id)
    ours, theirs = (read_checkpoint(best_checkpoint(store, one))["state_dict"] for one in (killed, trained))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_two_ranks_measure_what_one_process_measures(train: Any) -> None:
    words = ("trainer.max_epochs=0", "data.eval_batch_size=4", "data.val_fraction=0.17")  # 5 and 6 images
    ranks, alone = (train(*words, *more).data.metrics for more in (("strategy=ddp", "trainer.devices=2"), ()))
    for name in ("val/loss", "val/mean_iou", "val/dice", "val/pixel_accuracy", "test/loss", "test/mean_iou"):
        assert ranks[name] == pytest.approx(alone[name], rel=1e-5)


@pytest.mark.slow
def test_a_sweep_over_widths_is_compared_by_mean_iou(folder: Path) -> None:
    from multirun import multirun

    from lightning_modules.api import compare

    words = [*QUICK, f"data.root={folder}/squares", "trainer.max_epochs=1", "seed=0,1", "model.width=2,4"]
    multirun([*words, "sweep.name=widths", "task.pictures=0"])
    table = compare("widths", metric="test/mean_iou", by=["model.width"])
    assert {str(width) for width in table["model.width"]} == {"2", "4"} and table["n"].tolist() == [2, 2]


@pytest.mark.slow
def test_predict_writes_masks_of_images_of_any_size(trained: Any, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.tile(np.asarray(Image.open(folder / "squares" / "images" / "1.png")), (2, 2))[:41]).save(
        tmp_path / "large.png"
    )
    (tmp_path / "broken.png").write_bytes(b"?")
    with pytest.warns(UserWarning, match=r"1 files were not predicted:\n.*broken\.png cannot be read"):
        found = predict.main(["squares", f"input={tmp_path}", f"output={tmp_path}/masks"])
    with Image.open(tmp_path / "masks" / "large.png") as mask:
        classes = np.asarray(mask)
        assert mask.mode == "P" and classes.shape == (41, 48)
    truth = np.tile(np.asarray(Image.open(folder / "squares" / "masks" / "1.png")) > 0, (2, 2))[:41]
    assert (classes == truth).mean() > 0.9
    assert Image.open(tmp_path / "masks" / "large.overlay.png").size == (48, 41)
    assert float(found["predictions"][0]["square"]) == pytest.approx(classes.mean(), abs=1e-6)
    for words, message in (
        ([], "squares predicts masks: set output=FOLDER"),
        ([f"output={tmp_path}"], "the masks would replace the images"),
    ):
        with pytest.raises(UserError, match=message):
            predict.main(["squares", f"input={tmp_path}", *words])


@pytest.mark.slow
def test_what_is_trained_on_resized_images_is_predicted_at_their_size(train: Any, folder: Path, tmp_path: Path) -> None:
    train("data.image_size=[16, 20]", "trainer.max_epochs=1", "name=small")
    file = folder / "squares" / "images" / "1.png"
    predict.main(["small", f"input={file}", f"output={tmp_path}"])
    with Image.open(tmp_path / "1.png") as mask:
        assert mask.size == (24, 24)


@pytest.mark.slow
def test_an_onnx_file_takes_any_number_and_size_of_images(trained: Any, tmp_path: Path) -> None:
    from lightning_modules.export.export import export_run
    from lightning_modules.export.runtime import load_exported

    store = open_store()
    found, _ = export_run(store, trained, "onnx", False, tmp_path)
    assert found.agreement.max_error < 1e-4
    exported, task = load_exported(tmp_path / "model.onnx"), load_task(best_checkpoint(store, trained))
    for shape in ((1, 1, 24, 24), (3, 1, 32, 20), (2, 1, 27, 37)):
        x = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(exported(x), task.scores(task(x)), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_served_model_returns_probabilities(trained: Any, folder: Path) -> None:
    import mlflow

    path = best_checkpoint(open_store(), trained)
    served = mlflow.pyfunc.load_model(str(path.parent))
    x = np.asarray(Image.open(folder / "squares" / "images" / "1.png"))[None, None]
    found = served.predict(x)
    assert found.shape == (1, 2, 24, 24) and found.sum(1) == pytest.approx(np.ones((1, 24, 24)), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=digits", "model=unet", "model.depth=2", "task=segmentation"], r"loss: .* does not work with this task"),
        (["augmentation=image_basic"], "CropFlip would not change the masks with their images"),
        (["tta=flip"], "tta: the views of an image would have to be moved back"),
    ],
)
def test_parts_that_do_not_fit_are_one_message_before_the_first_step(
    folder: Path, words: list[str], message: str
) -> None:
    base = [] if "data=digits" in words else [*QUICK[:8], f"data.root={folder}/squares"]
    with pytest.raises(Exception, match=message) as caught:
        run(compose_run([*base, *words, "tracking=none"]))
    assert UserError in (type(caught.value), type(caught.value.__cause__))
