"""Own images with masks: read, split and counted; and what a wrong file says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.masks import palette
from lightning_modules.zoo.data.segmentation_folder import SegmentationFolder

Data = Callable[..., SegmentationFolder]


def write(root: Path, names: Sequence[str], size: tuple[int, int] = (8, 6), low: int = 0, high: int = 255) -> None:
    """Images whose pixels are bright where their mask is `high`, in the left half."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        mask = np.full(size[::-1], low, np.uint8)
        mask[:, : size[0] // 2] = high
        Image.fromarray(np.where(mask == high, 200, 10).astype(np.uint8) + np.uint8(number)).save(
            root / "images" / f"{name}.png"
        )
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "cells", [str(i) for i in range(12)])
    return tmp_path / "cells"


@pytest.fixture
def opened(root: Path, tmp_path: Path) -> Data:
    def launch(**settings: Any) -> SegmentationFolder:
        data = SegmentationFolder(root=root, cache_dir=tmp_path / "cache", **settings)
        data.setup()
        return data

    return launch


def test_images_and_masks_are_read_and_classes_are_the_values_that_occur(opened: Data) -> None:
    data = opened(gray=True)
    assert (data.name, data.input_shape, data.class_names, data.num_targets) == ("cells", (1, 6, 8), ["0", "255"], 2)
    x, y = data.arrays.x, data.arrays.y
    assert isinstance(x, torch.Tensor) and (x.dtype, y.dtype, tuple(y.shape)) == (torch.uint8, torch.uint8, (12, 6, 8))
    assert torch.equal(y == 1, x[:, 0] >= 200)
    assert data.class_counts is not None and data.class_counts.tolist() == [24 * len(data.splits["train"])] * 2
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["y"], y[batch["index"]]) and opened().input_shape == (3, 6, 8)


def test_classes_have_names_and_ignored_pixels_count_nowhere(root: Path, opened: Data) -> None:
    mask = np.asarray(Image.open(root / "masks" / "3.png")).copy()
    mask[0] = 7
    Image.fromarray(mask).save(root / "masks" / "3.png")
    data = opened(classes={"cell": 255, "none": 0, "rare": 9}, ignore=7)
    assert data.class_names == ["cell", "none", "rare"] and data.arrays.y[3, 0].unique().tolist() == [255]
    assert data.arrays.y[0].unique().tolist() == [0, 1]
    with pytest.raises(
        UserError, match=r"3\.png has the values 7, which are no class: expected 255, 0 \(data\.classes"
    ):
        opened(classes={"cell": 255, "none": 0})


def test_a_palette_gives_numbers_and_a_bitmap_zero_and_one(root: Path, opened: Data) -> None:
    for path in (root / "masks").iterdir():
        image = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8))
        image.putpalette(palette().flatten().tolist())
        image.save(path)
    assert opened().class_names == ["0", "1"]
    for path in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) > 0).save(path)
    assert opened().class_names == ["0", "1"]


def test_a_split_in_order_follows_the_numbers_of_the_names(opened: Data) -> None:
    data = opened(in_order=True, val_fraction=0.25, test_fraction=0.25)
    assert {part: index.tolist() for part, index in data.splits.items()} == {
        "train": list(range(6)), "val": [6, 7, 8], "test": [9, 10, 11],
    }  # fmt: skip
    assert [int(x[0, 0, 0]) for x in data.arrays.x] == list(range(200, 212))  # type: ignore[attr-defined]
    assert len(opened(in_order=True, fraction=0.5, test_fraction=0.25).splits["train"]) == 4
    shuffled = opened().splits
    assert sorted(torch.cat(list(shuffled.values())).tolist()) == list(range(12))
    with pytest.raises(UserError, match=r"data\.in_order=true: the images are split in their order"):
        opened(in_order=True, folds=3, fold=0)


def test_folders_of_parts_are_kept(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("valid", 2), ("test", 3)):
        write(tmp_path / "parts" / part, [f"{part}{i}" for i in range(count)])
    data = SegmentationFolder(root=tmp_path / "parts", cache_dir=tmp_path)
    data.setup()
    assert {part: index.tolist() for part, index in data.splits.items()} == {
        "train": [0, 1, 2, 3], "val": [4, 5], "test": [0, 1, 2],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"has folders of the parts train, val, test: remove data\.in_order"):
        SegmentationFolder(root=tmp_path / "parts", in_order=True).setup()


def test_sizes_are_made_equal_where_asked_and_masks_are_not_interpolated(root: Path, opened: Data) -> None:
    write(root, ["large"], size=(16, 12))
    data = opened(image_size=[3, 4])
    assert data.input_shape == (3, 3, 4) and data.arrays.y.unique().tolist() == [0, 1]
    assert opened(image_size=5).input_shape == (3, 5, 5)
    with pytest.raises(UserError, match=r"large\.png has 16x12 pixels, the first has 8x6 pixels: set data\.image_size"):
        opened()


def test_the_fingerprint_covers_masks_classes_and_split(root: Path, opened: Data) -> None:
    first = opened().fingerprint()
    assert opened().fingerprint() == first
    others = [opened(gray=True), opened(val_fraction=0.2), opened(image_size=4), opened(in_order=True)]
    others += [opened(classes={"b": 255, "a": 0})]
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(root / "masks" / "0.png")
    assert len({first, opened().fingerprint(), *(data.fingerprint() for data in others)}) == 7


def test_an_image_without_objects_is_trained_on(root: Path, opened: Data) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / "masks" / "0.png")
    assert opened().arrays.y[0].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "masks" / "3.png").unlink(), r"images/3\.png has no mask: expected .*masks/3 "),
        (lambda root: (root / "images" / "3.png").unlink(), r"masks/3\.png has no image: expected .*images/3 "),
        (lambda root: (root / "masks" / "3.png").write_bytes(b"?"), r"masks/3\.png cannot be read as a mask"),
        (lambda root: (root / "images" / "3.png").write_bytes(b"?"), r"images/3\.png cannot be read as an image"),
        (
            lambda root: Image.new("L", (8, 7)).save(root / "masks" / "3.png"),
            r"masks/3\.png has 8x7 pixels, but its image .*images/3\.png has 8x6 pixels",
        ),
        (
            lambda root: Image.new("RGB", (8, 6)).save(root / "masks" / "3.png"),
            r"masks/3\.png has the mode RGB: expected",
        ),
        (
            lambda root: (
                Image.linear_gradient("L").resize((8, 64)).save(root / "masks" / "3.png")
                or Image.new("L", (8, 64)).save(root / "images" / "3.png")
            ),
            r"3\.png has 8x64 pixels, the first has 8x6",
        ),
        (lambda root: (root / "images" / "3.jpg").write_bytes(b"?"), r"images has several files named as 3\.(png|jpg)"),
        (lambda root: (root / "masks").rename(root / "labels"), r"there is no folder .*masks; set data\.root"),
        (lambda root: [path.unlink() for path in (root / "images").iterdir()], "images has no images"),
        (
            lambda root: [Image.new("L", (8, 6)).save(path) for path in (root / "masks").iterdir()],
            r"data\.classes=\{0: 0\} with data\.ignore=None: expected 2 to 255 classes",
        ),
        (
            lambda root: [
                Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)
                for path in (root / "masks").iterdir()
            ],
            r"the masks have 48 different values; name the classes",
        ),
    ],
)
def test_a_wrong_file_is_one_message(root: Path, opened: Data, change: Callable[[Path], object], message: str) -> None:
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        opened()
    assert str(root) in str(caught.value) or "data.classes" in str(caught.value)
