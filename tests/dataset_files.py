"""Small files in the formats of the sets that experiments for larger machines read."""

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_modules.zoo.data.image_datasets import IDX_FILES

RNG = np.random.RandomState(0)


def write_cifar(folder: Path, classes: int) -> None:
    """CIFAR-10 or -100 in the binary form: two training images of each class, and ten test images."""
    home = folder / ("cifar-100-binary" if classes == 100 else "cifar-10-batches-bin")
    home.mkdir(parents=True)
    labels = np.tile(np.arange(classes, dtype=np.uint8), 2)
    names = ["train.bin"] if classes == 100 else [f"data_batch_{k}.bin" for k in range(1, 6)]
    for name, part in zip(names, np.array_split(labels, len(names)), strict=True):
        (home / name).write_bytes(_records(part, classes))
    (home / ("test.bin" if classes == 100 else "test_batch.bin")).write_bytes(_records(labels[:10], classes))


def _records(labels: np.ndarray, classes: int) -> bytes:
    fields = [labels[:, None] // 5, labels[:, None]] if classes == 100 else [labels[:, None]]  # coarse, fine
    return np.hstack([*fields, RNG.randint(0, 256, (len(labels), 3072), np.uint8)]).astype(np.uint8).tobytes()


def write_mnist(folder: Path) -> None:
    """MNIST's four idx files with 40 and 10 images."""
    for name, count in zip(IDX_FILES, (40, 40, 10, 10), strict=True):
        array = (
            RNG.randint(0, 256, (count, 28, 28), np.uint8)
            if "images" in name
            else np.arange(count, dtype=np.uint8) % 10
        )
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(head + array.tobytes())


def write_folders(folder: Path) -> None:
    """Two classes of images, two to train on and one to test on in each."""
    for part, count in (("train", 2), ("test", 1)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = RNG.randint(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.png")
