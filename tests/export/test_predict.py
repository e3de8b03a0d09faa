"""Predictions for files: the model's own classes, whatever the kind of file, or what the model wants."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.run.predict import find_model, predict
from lightning_modules.zoo.data.image_datasets import Digits

IMAGES = 6


@pytest.fixture
def samples() -> np.ndarray:
    return Digits().example(IMAGES).numpy()


def rows(task: Any, wanted: Any, path: Path) -> list[dict[str, str]]:
    out = io.StringIO()
    count = predict(task, wanted, path, out)
    read = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert len(read) == count
    return read


def test_arrays_images_and_tables_of_the_same_samples_get_the_same_classes(
    recorded_run: Any, store: Any, samples: np.ndarray, tmp_path: Path
) -> None:
    from PIL import Image

    x = samples
    run = recorded_run
    task, wanted = find_model(store, run.info.run_id)
    np.save(tmp_path / "six.npy", x)
    header = ",".join(f"p{i}" for i in range(64))
    np.savetxt(tmp_path / "six.csv", x.reshape(IMAGES, -1), fmt="%d", delimiter=",", header=header, comments="")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image[0]).save(tmp_path / "images" / f"{i}.png")
    found = [rows(task, wanted, tmp_path / name) for name in ("six.npy", "six.csv", "images")]
    with torch.inference_mode():
        scores = task.scores(task(torch.from_numpy(x)))
    assert [row["class"] for row in found[0]] == [str(label) for label in scores.argmax(1).tolist()]
    assert [float(row["probability"]) for row in found[0]] == pytest.approx(scores.max(1).values.tolist(), abs=1e-5)
    for other in found[1:]:
        assert [(r["class"], r["probability"]) for r in other] == [(r["class"], r["probability"]) for r in found[0]]
    assert [row["sample"] for row in found[0]] == [str(i) for i in range(IMAGES)]
    assert found[2][0]["file"].endswith("images/0.png")
    model_id = run.data.tags["touchstone.model_id"]
    task, wanted = find_model(store, f"models:/{model_id}")
    assert rows(task, wanted, tmp_path / "six.npy") == found[0]


@pytest.mark.slow
def test_what_the_model_cannot_read_is_answered_with_what_it_wants(
    recorded_run: Any, store: Any, tmp_path: Path
) -> None:
    from PIL import Image

    task, wanted = find_model(store, recorded_run.info.run_id)
    out = io.StringIO()
    np.save(tmp_path / "large.npy", np.zeros((2, 1, 9, 9), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((2, 1, 8, 8)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    Image.new("L", (28, 28)).save(tmp_path / "large.png")
    (tmp_path / "few.csv").write_text("a,b\n1,2\n")
    (tmp_path / "words.csv").write_text("a,b\n1,x\n")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "texts.txt").write_text("")
    (tmp_path / "empty").mkdir()
    wants = r"the model expects uint8 samples of shape \[1, 8, 8\]"
    for name, said in (
        ("large.npy", rf"shape \[2, 1, 9, 9\] and type uint8, but {wants}"),
        ("floats.npy", f"contains float64, but {wants}"),
        ("objects.npy", "objects.npy cannot be read"),
        ("large.png", rf"shape \[1, 28, 28\], but {wants}"),
        ("few.csv", rf"has 2 columns, but {wants} \(64 columns"),
        ("words.csv", r"not numbers \(encode or drop them\): b"),
        ("broken.png", "broken.png cannot be read"),
        ("notes.md", "no supported file; supported are .png"),
        ("texts.txt", f"contains texts, but {wants}"),
        ("empty", "no supported file"),
        ("nothing.png", "no such file"),
    ):
        with pytest.raises(UserError, match=said):
            predict(task, wanted, tmp_path / name, out)
    (tmp_path / "new").mkdir()
    for file in [file for file in tmp_path.iterdir() if file.is_file()]:
        file.rename(tmp_path / "new" / file.name)
    np.save(tmp_path / "new" / "right.npy", np.zeros((2, 1, 8, 8), np.uint8))
    with pytest.warns(UserWarning, match=r"8 of 9 files were not predicted:\n.*broken.png cannot(.*\n){5}…") as caught:
        assert [Path(row["file"]).name for row in rows(task, wanted, tmp_path / "new")] == ["right.npy", "right.npy"]
    assert any("skipped 1 of 10 files: 1 with suffix .md" in str(one.message) for one in caught)


@pytest.mark.slow
def test_values_are_predicted_by_a_regression(train: Any, store: Any, tmp_path: Path) -> None:
    run = train("data=tabular", "data.name=diabetes", "task=regression", "~data.per_class")
    task, wanted = find_model(store, run.info.run_id)
    np.save(tmp_path / "x.npy", np.zeros((3, 10)))
    found = rows(task, wanted, tmp_path / "x.npy")
    assert len(found) == 3 and all(np.isfinite(float(row["value"])) for row in found)


@pytest.mark.slow
def test_the_command_writes_a_table_and_needs_an_input(recorded_run: Any, command: Any, tmp_path: Path) -> None:
    run = recorded_run
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.uint8))
    done = command("predict.py", run.info.run_id, f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'out.csv'}")
    assert done.returncode == 0 and "3 samples" in done.stdout, done.stderr
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "file,sample,class,probability"
    wrong = command("predict.py", run.info.run_id)
    assert wrong.returncode == 1 and wrong.stderr.startswith("input=… is missing")
