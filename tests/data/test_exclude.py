import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.split import drop_excluded
from lightning_modules.zoo.data.image_datasets import Digits


def write(folder: Path, entries: list[dict[str, Any]], content: str | None = None) -> Path:
    file = folder / "excluded.json"
    file.write_text(json.dumps({"content": content or Digits().content_fingerprint(), "excluded": entries}))
    return file


def of(part: str, *indices: int) -> list[dict[str, Any]]:
    return [{"index": i, "part": part, "why": "tested"} for i in indices]


def test_listed_samples_neither_train_nor_validate_and_all_others_stay_where_they_are(tmp_path: Path) -> None:
    plain = Digits()
    plain.setup()
    listed = [int(plain.splits[part][3]) for part in ("train", "val", "test")]
    data = Digits(exclude=write(tmp_path, of("pool", *listed)))
    data.setup()
    for part, index in zip(("train", "val"), listed, strict=False):
        assert torch.equal(data.splits[part], plain.splits[part][plain.splits[part] != index])
    assert torch.equal(data.splits["test"], plain.splits["test"])
    assert data.fingerprint() != plain.fingerprint()
    assert data.content_fingerprint() == plain.content_fingerprint()


def test_the_test_part_loses_them_only_where_that_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, of("pool", *range(200)))
    data = Digits(exclude=file, exclude_test=True)
    data.setup()
    plain = Digits(exclude=file)
    plain.setup()
    assert int(plain.splits["test"].min()) < 200 <= int(data.splits["test"].min())


def test_an_official_test_part_is_numbered_by_itself(tmp_path: Path) -> None:
    splits = {"train": torch.arange(5), "val": torch.arange(5, 8), "test": torch.arange(4)}
    file = write(tmp_path, of("pool", 1, 6) + of("test", 2), "c")
    kept = drop_excluded(splits, file, True, True, lambda: "c")
    assert {part: index.tolist() for part, index in kept.items()} == {
        "train": [0, 2, 3, 4],
        "val": [5, 7],
        "test": [0, 1, 3],
    }
    assert drop_excluded(splits, file, True, False, lambda: "c")["test"].tolist() == [0, 1, 2, 3]


def test_wrong_files_are_explained(tmp_path: Path) -> None:
    for text, message in (
        ("{", "is damaged"),
        ('{"content": "x", "excluded": [{"part": "pool"}]}', "is damaged"),
        ('{"content": "x", "excluded": []}', "was created for different data"),
        (
            '{"content": "x", "excluded": [{"index": 1, "part": "train"}]}',
            "expected pool or test as the part of a sample, got train",
        ),
    ):
        (tmp_path / "list.json").write_text(text)
        with pytest.raises(UserError, match=message):
            Digits(exclude=tmp_path / "list.json").setup()
    with pytest.raises(UserError, match=r"No such file.*touchstone data clean"):
        Digits(exclude=tmp_path / "none.json").setup()
    with pytest.raises(UserError, match="leaves nothing to train on"):
        Digits(exclude=write(tmp_path, of("pool", *range(1797)))).setup()
