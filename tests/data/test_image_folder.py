from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.data.image_folder import ImageFolder


def write(folder: Path, count: int, seed: int = 0) -> None:
    rng = np.random.RandomState(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(rng.randint(0, 256, (20, 30, 3), np.uint8))
            image.save(folder / name / f"{i:03d}.{'png' if i % 2 else 'jpg'}")


def test_one_folder_is_split(tmp_path: Path) -> None:
    write(tmp_path, 20)
    data = ImageFolder(root=tmp_path, image_size=16)
    data.setup()
    assert data.class_names == ["cat", "dog"]
    assert data.input_shape == (3, 16, 16)
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 28, "val": 4, "test": 8}
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].dtype == torch.uint8
    assert abs(float(data.preprocess(batch["x"]).mean())) < 1e-5, "standardised by the training part"


def test_official_parts_are_kept(tmp_path: Path) -> None:
    for seed, (part, count) in enumerate((("train", 6), ("val", 3), ("test", 2))):
        write(tmp_path / part, count, seed)
    data = ImageFolder(root=tmp_path, image_size=8)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 12, "val": 6, "test": 4}
    assert torch.equal(data.splits["val"], torch.arange(12, 18))


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_on_the_fly_gives_the_same_batches_and_fingerprint(tmp_path: Path, workers: int) -> None:
    write(tmp_path, 10)
    memory = ImageFolder(root=tmp_path, image_size=8, batch_size=5, in_memory=True)
    files = ImageFolder(root=tmp_path, image_size=8, batch_size=5, in_memory=False, num_workers=workers)
    assert files.fingerprint() == memory.fingerprint()
    pairs = list(zip(memory.train_dataloader(), files.train_dataloader(), strict=True))
    assert len(pairs) == 3
    assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in ("x", "y", "index"))


def test_the_fingerprint_follows_the_content_and_the_size(tmp_path: Path) -> None:
    write(tmp_path, 10)
    first = ImageFolder(root=tmp_path, image_size=8).fingerprint()
    assert ImageFolder(root=tmp_path, image_size=9).fingerprint() != first
    Image.new("RGB", (20, 20)).save(tmp_path / "dog" / "003.png")
    assert ImageFolder(root=tmp_path, image_size=8).fingerprint() != first


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    write(tmp_path, 10)
    Image.new("L", (9, 9), 7).save(tmp_path / "cat" / "001.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "cat" / "003.png")
    arrays = ImageFolder(root=tmp_path, image_size=8).load()
    assert arrays.x.shape == (20, 3, 8, 8)
    assert (arrays.x[1] == 7).all()  # type: ignore[index]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_is_named(tmp_path: Path, in_memory: bool) -> None:
    write(tmp_path, 10)
    file = tmp_path / "cat" / "004.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cat/004\.jpg"):
        ImageFolder(root=tmp_path, image_size=8, in_memory=in_memory, num_workers=0).setup()


def test_a_folder_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no classes were found in .*data.root"):
        ImageFolder(root=tmp_path / "nowhere").setup()
    write(tmp_path / "train", 4)
    (tmp_path / "val" / "dgo").mkdir(parents=True)
    with pytest.raises(UserError, match=r"val/dgo is not a class .* did you mean 'dog'"):
        ImageFolder(root=tmp_path).setup()
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match=r"train/empty contains no images"):
        ImageFolder(root=tmp_path).setup()
    with pytest.raises(
        UserError,
        match=r"image_size=0(.|\n)*in_memory=sometimes: choose one of: False, True, auto",
    ):
        ImageFolder(root=tmp_path, image_size=0, in_memory="sometimes")  # type: ignore[arg-type]
