"""Any LightningDataModule with map-style data sets is inspected and copied; what has no index is rejected."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.cli.augment import main, write_copies
from lightning_modules.config.errors import UserError
from lightning_modules.quality.commands import COMMANDS, compose_quality

THIS = "data=lightning_datamodule", "data._target_=indexed_modules.Rows"


def inspect(tmp_path: Path, *words: str) -> Any:
    COMMANDS["inspect"](compose_quality([*THIS, "tracking=none", f"out={tmp_path}/report", *words]))
    return json.loads((tmp_path / "report" / "report.json").read_text())


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_the_samples_behind_the_loaders_are_inspected(form: str, tmp_path: Path) -> None:
    found = inspect(tmp_path, f"+data.form={form}", "+data.shift=3", "near=1")
    assert found["samples"] == 280 and {k: v["samples"] for k, v in found["balance"].items()} == {
        "train": 140, "val": 60, "test": 80,
    }  # fmt: skip
    assert found["listed"]["exact"] == [["train 0", "test 0"], ["train 1", "test 1"], ["train 7", "val 150"]]
    assert found["duplicates"]["leaks"] == {"train+test": 2, "train+val": 1}
    assert found["values"]["shape"] == [3] and found["drift"]["drifted_columns"] == 3
    assert found["drift"]["auc"] > 0.9


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("stream", r"data=Rows: train_dataloader gives a stream \(Stream\), whose samples have no index"),
        ("random", "data=Rows: the samples of train_dataloader differ each time they are read"),
        ("batches", r"train_dataloader gives a DataLoader \(list\), whose samples have no index"),
        ("ragged", "samples 0 to 39 of train_dataloader: RuntimeError: stack expects each tensor to be equal size"),
        ("three", r"need batches \(x, y\) or \{x, y\}"),
    ],
)
def test_what_has_no_samples_by_index_is_rejected_with_the_reason(form: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        inspect(tmp_path, f"+data.form={form}")
    with pytest.raises(UserError, match=message):
        write_copies(["data=lightning_datamodule", "data._target_=indexed_modules.Rows", f"+data.form={form}",
                      "augmentation=series_basic"], tmp_path / "copies")  # fmt: skip
    assert not (tmp_path / "copies").exists()


def test_copies_of_images_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import service_modules

    words = ["data=lightning_datamodule", "data._target_=service_modules.Images", "augmentation=image_basic"]
    main([f"out={tmp_path}/copies", "copies=2", *words])
    assert "add x and y of samples.safetensors to its training data set" in capsys.readouterr().out
    data, written = service_modules.Samples(43, 0, "tuple"), load_file(tmp_path / "copies" / "samples.safetensors")
    assert written["x"].shape == (86, 1, 8, 8) and written["source"].tolist() == [*range(43)] * 2
    assert torch.equal(written["y"], data.y.repeat(2)) and not torch.equal(written["x"][:43], data.x)
    assert not torch.equal(written["x"][:43], written["x"][43:])
