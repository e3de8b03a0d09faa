"""Folders of classes and parts, as exports of other tools name them, and what is said of files that are skipped."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_audio import write_wav

from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.image_folder import ImageFolder
from lightning_modules.zoo.data.audio import AudioFolder


def fill(folder: Path, count: int = 2, names: tuple[str, ...] = ("a", "b"), suffix: str = ".png") -> None:
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (60 * k, i, 0)).save(folder / name / f"{i}{suffix}")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "dev", "TEST"),
        ("train", "Val", "testing"),
    ],
)
def test_parts_are_known_by_the_names_that_exports_use(tmp_path: Path, train: str, val: str, test: str) -> None:
    for part, count in ((train, 4), (val, 2), (test, 3)):
        fill(tmp_path / part, count)
    data = ImageFolder(root=tmp_path, image_size=4)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 8, "val": 4, "test": 6}
    for file in tmp_path.rglob("*.png"):
        write_wav(file.with_suffix(".wav"), np.arange(80))
        file.unlink()
    sound = AudioFolder(root=tmp_path, seconds=0.01)
    sound.setup()
    assert {part: len(index) for part, index in sound.splits.items()} == {"train": 8, "val": 4, "test": 6}


def test_a_folder_that_is_no_part_is_rejected_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "foo")
    said = (
        r"foo is not the name of a part, as train is: use train, training; val, valid, validation, dev; test, testing"
    )
    with pytest.raises(UserError, match=said):
        ImageFolder(root=tmp_path).setup()
    shutil.rmtree(tmp_path / "foo")
    fill(tmp_path / "val")
    fill(tmp_path / "valid")
    with pytest.raises(UserError, match="val and valid are both folders of the val part"):
        ImageFolder(root=tmp_path).setup()
    shutil.rmtree(tmp_path / "valid")
    (tmp_path / "Test").mkdir()
    with pytest.raises(UserError, match=r"Test contains no images; supported suffixes: \.bmp"):
        ImageFolder(root=tmp_path).setup()


def test_a_class_may_be_called_as_a_part_is(tmp_path: Path) -> None:
    fill(tmp_path, 10, ("car", "test", "train"))
    assert ImageFolder(root=tmp_path, image_size=4).arrays.class_names == ["car", "test", "train"]


def test_skipped_files_are_counted_by_reason(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fill(tmp_path, 3)
    fill(tmp_path, 3, suffix=".TIF")
    fill(tmp_path, 3, suffix=".gif")
    read_class_folders(tmp_path, "images", (".png", ".tif", ".gif"))
    assert not recwarn.list
    for name in ("a/notes.txt", "b/list.txt", "a/README", "a/._0.png", "b/.DS_Store", "__MACOSX/x.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "inner").mkdir()
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "inner" / "0.png")
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "left.png")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"skipped 8 of 26 files") as caught:
        data = ImageFolder(root=tmp_path, image_size=4)
        assert len(data.arrays.y) == 18
    [said] = [str(one.message) for one in caught]
    for reason in (
        "2 with suffix .txt", "1 without a suffix", "2 hidden", "1 in subfolders of a class", "1 outside the class folders",
        "1 unreadable",
    ):  # fmt: skip
        assert reason in said


def test_a_class_that_only_one_part_has_is_found_before_training(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4, ("a", "b", "c"))
    fill(tmp_path / "val")
    with pytest.warns(UserWarning, match=r"parts without samples of some classes.* val: 'c'"):
        ImageFolder(root=tmp_path, image_size=4).setup()
    fill(tmp_path / "test", 1, ("d",))
    with pytest.raises(UserError, match=r"test/d is not a class of the training part"):
        ImageFolder(root=tmp_path, image_size=4).setup()


def test_all_unreadable_files_are_reported_at_once(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    for i in range(7):
        (tmp_path / "b" / f"{i}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"7 of 20 files cannot be read:\n.*b/0\.png cannot(.*\n){5}…"):
        ImageFolder(root=tmp_path, image_size=4).setup()


def test_names_that_are_not_utf8_are_classes_too(tmp_path: Path) -> None:
    fill(tmp_path, 10, ("thé", "tea"))
    os.rename(tmp_path / "tea", os.path.join(os.fsencode(tmp_path), b"caf\xe9"))  # noqa: PTH104, PTH118
    data = ImageFolder(root=tmp_path, image_size=4)
    assert len(data.fingerprint()) == 64
    assert (data.class_names, data.arrays.y.bincount().tolist()) == ([r"caf\xe9", "thé"], [10, 10])
