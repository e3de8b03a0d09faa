"""MNIST, Fashion-MNIST and CIFAR from files as their authors write them."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.image_datasets import CIFAR10, CIFAR100, IDX_FILES, MNIST, FashionMNIST

RNG = np.random.RandomState(0)
IMAGES, LABELS = RNG.randint(0, 256, (60, 28, 28), np.uint8), np.arange(60, dtype=np.uint8) % 10
PIXELS = RNG.randint(0, 256, (20, 3072), np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder: Path, zipped: bool) -> None:
    folder.mkdir(parents=True)
    for name, array in zip(IDX_FILES, (IMAGES, LABELS, IMAGES[:20], LABELS[:20]), strict=True):
        content = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_mnist_is_read_plain_and_zipped(tmp_path: Path, zipped: bool, place: str) -> None:
    write_mnist(tmp_path / "data" / place, zipped)
    data = MNIST(root=tmp_path / "data")
    data.setup()
    assert data.input_shape == (1, 28, 28)
    assert torch.equal(data.arrays.x, torch.from_numpy(IMAGES).unsqueeze(1))  # type: ignore[arg-type]
    assert data.arrays.y.tolist() == LABELS.tolist()
    assert len(data.splits["test"]) == 20
    assert data.preprocess.get_buffer("shift").tolist() == [pytest.approx(0.1307)]


def test_the_data_root_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "elsewhere", True)
    monkeypatch.setenv("TOUCHSTONE_DATA", str(tmp_path / "elsewhere"))
    assert len(MNIST().load().y) == 60


def test_null_constants_are_measured_on_the_training_part(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", False)
    data = MNIST(root=tmp_path / "data", mean=None, std=None, val_fraction=0.5)
    data.setup()
    expected = IMAGES[data.splits["train"].numpy()].astype(np.float64).mean() / 255
    assert float(data.preprocess.get_buffer("shift")) == pytest.approx(expected)


def test_a_missing_set_is_answered_with_every_place_and_every_way(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        MNIST(root=tmp_path).setup()
    for part in (str(tmp_path / "MNIST/raw"), IDX_FILES[0], "data.download=true", "data.root"):
        assert part in str(caught.value)
    assert "apt-get install dataset-fashion-mnist" in FashionMNIST.hint
    with pytest.raises(UserError, match=r"data.download=true"):
        CIFAR10(root=tmp_path).setup()


@pytest.mark.parametrize("damage", ["cut", "cut zip", "other kind", "labels of another set"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path / "data", "zip" in damage)
    file = tmp_path / "data" / (IDX_FILES[0] + ".gz" * ("zip" in damage))
    if damage.startswith("cut"):
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other kind":
        file.write_bytes(b"<html>not found</html>")
    else:
        file.write_bytes(idx(IMAGES[:30]))
    with pytest.raises(UserError, match=IDX_FILES[0]):
        MNIST(root=tmp_path / "data").setup()


def test_fashion_mnist_is_the_published_set(fashion_mnist: Path) -> None:
    data = FashionMNIST()
    data.setup()
    x, y = data.arrays.x, data.arrays.y
    assert isinstance(x, torch.Tensor)
    assert data.class_names is not None
    assert data.class_names[int(y[0])] == "ankle boot"
    assert (tuple(x.shape), len(data.splits["test"])) == ((60000, 1, 28, 28), 10000)
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (60000, 28, 28))
    assert hashlib.sha256(head + x.numpy().tobytes()).hexdigest().startswith("c59f468a")
    measured = FashionMNIST(mean=None, std=None, val_fraction=0)
    measured.setup()
    assert float(measured.preprocess.get_buffer("shift")) == pytest.approx(0.2860, abs=1e-4)
    assert float(measured.preprocess.get_buffer("scale")) == pytest.approx(0.3530, abs=1e-4)


def write_pickle(file: Path, content: dict) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar10(root: Path, binary: bool) -> None:
    folder = root / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    labels = np.arange(20, dtype=np.uint8) % 10
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        if binary:
            (folder / f"{name}.bin").write_bytes(np.concatenate((labels[:, None], PIXELS), 1).tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": PIXELS, b"labels": labels.tolist()}, protocol=2))
    names = [f"name{n}" for n in range(10)]
    if binary:
        (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in names]}, protocol=2))


@pytest.mark.parametrize("binary", [False, True])
def test_cifar10_is_read_from_both_versions(tmp_path: Path, binary: bool) -> None:
    write_cifar10(tmp_path / "data", binary)
    data = CIFAR10(root=tmp_path / "data")
    data.setup()
    assert torch.equal(data.arrays.x[:20], torch.from_numpy(PIXELS).view(-1, 3, 32, 32))  # type: ignore[index]
    assert data.arrays.y.tolist() == [n % 10 for n in range(20)] * 5
    assert data.class_names == [f"name{n}" for n in range(10)]
    assert len(data.splits["test"]) == 20


@pytest.mark.parametrize("binary", [False, True])
def test_cifar100_has_the_fine_classes(tmp_path: Path, binary: bool) -> None:
    folder = tmp_path / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir()
    fine, coarse = np.arange(20, dtype=np.uint8) + 80, np.arange(20, dtype=np.uint8)
    for name in ("train", "test"):
        if binary:
            records = np.concatenate((coarse[:, None], fine[:, None], PIXELS), 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {b"data": PIXELS, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            write_pickle(folder / name, content)
    arrays = CIFAR100(root=tmp_path).load()
    assert arrays.y.tolist() == fine.tolist()
    assert torch.equal(arrays.x, torch.from_numpy(PIXELS).view(-1, 3, 32, 32))  # type: ignore[arg-type]


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path, binary=False)
    file, target = tmp_path / "cifar-10-batches-py" / "data_batch_3", tmp_path / "it was run"
    file.write_bytes(pickle.dumps({b"data": Malicious(target)}))
    with pytest.raises(UserError, match=r"data_batch_3 was rejected"):
        CIFAR10(root=tmp_path).setup()
    assert not target.exists()


@pytest.mark.parametrize("binary", [False, True])
def test_a_cut_cifar_file_is_named(tmp_path: Path, binary: bool) -> None:
    write_cifar10(tmp_path, binary)
    (file,) = tmp_path.rglob("data_batch_2*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="data_batch_2"):
        CIFAR10(root=tmp_path).setup()
