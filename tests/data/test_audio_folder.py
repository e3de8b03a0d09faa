"""Recordings of a user's own, by class."""

from pathlib import Path

import pytest
from made_sounds import int16, sine, write_wav

from lightning_modules.data.speech_folder import AudioFolder
from lightning_modules.errors import UserError


def fill(folder: Path, count: int, names: tuple[str, ...] = ("dog", "cat")) -> None:
    for k, name in enumerate(names):
        for i in range(count):
            write_wav(folder / name / f"{i}.wav", int16(sine(300 * (k + 1), length=900))[0].numpy())


def test_folders_are_classes_and_parts_are_split_off_by_fraction(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    data = AudioFolder(root=tmp_path, seconds=0.1)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 14, "val": 2, "test": 4}
    assert (data.class_names, data.input_shape, data.cut) == (["cat", "dog"], (800,), 20)


def test_folders_of_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        fill(tmp_path / part, count)
    data = AudioFolder(root=tmp_path, seconds=0.1)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert data.arrays.y[data.splits["val"]].tolist() == [0, 0, 1, 1]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no classes were found in .*set data.root"):
        AudioFolder(root=tmp_path).setup()
    fill(tmp_path / "test", 2)
    with pytest.raises(UserError, match="has test but no train folder"):
        AudioFolder(root=tmp_path).setup()
    fill(tmp_path / "train", 2)
    fill(tmp_path / "test", 1, ("dgo",))
    with pytest.raises(UserError, match=r"dgo is no class of the training part: did you mean 'dog'"):
        AudioFolder(root=tmp_path).setup()
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(UserError, match=r"owl holds no .wav file"):
        AudioFolder(root=tmp_path).setup()
