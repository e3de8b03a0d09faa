"""Files that declare more than they hold, or than fits into memory: one message, and nothing is allocated for it."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lightning_modules.compression import container
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.config.errors import UserError
from lightning_modules.data.files import read_npy, read_npz
from lightning_modules.data.image_folder import ImageFolder
from lightning_modules.data.table_file import read_table
from lightning_modules.run.input_files import InputSpec
from lightning_modules.run.predict import predict
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.data.audio import AudioFolder
from lightning_modules.zoo.data.generated_datasets import MNIST1D
from lightning_modules.zoo.data.image_datasets import read_idx
from lightning_modules.zoo.data.text_datasets import FOLDER, _content

HUGE = 8 * 10**9  # entries


def npy(path: Path, shape: tuple[int, ...], values: int = 4) -> Path:
    """A float32 array whose header declares `shape`, with so many values behind it."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(np.arange(values, dtype=np.float32).tobytes())
    return path


def png(path: Path, side: int) -> Path:
    """An image whose header declares side x side pixels, with none behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 9) + b"IDAT"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


class Classifier(Supervised):
    """One that is not initialised: no sample reaches it."""

    kind = "multiclass"


def predicted(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    predict(Classifier.__new__(Classifier), InputSpec(shape, dtype), path, io.StringIO())


def test_an_array_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    for array in (np.arange(6.0).reshape(2, 3, order="F"), np.ones((0, 3), np.int8), np.array(2.5)):
        np.save(tmp_path / "x.npy", array)
        assert np.array_equal(read_npy(tmp_path / "x.npy"), array)


def test_an_array_whose_header_declares_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = npy(tmp_path / "x.npy", (HUGE,))
    with pytest.raises(UserError, match=r"x\.npy is damaged: it declares 32,000,000,000 bytes .* but has 16 bytes"):
        read_npy(path)
    with pytest.raises(UserError, match="it declares 32,000,000,000 bytes"):
        predicted(path, (2,), torch.float32)


def test_an_array_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    path = npy(tmp_path / "x.npy", (10**12,))
    os.truncate(path, path.stat().st_size + 4 * 10**12)  # sparse: it takes no room on the disk
    with pytest.raises(
        UserError, match=r"x\.npy contains 4,000,000,000,000 bytes, but only [\d,]+ bytes of memory are"
    ):
        predicted(path, (2,), torch.float32)


def lying_npz(path: Path) -> Path:
    """An archive whose directory declares 4 GB for its one array."""
    np.savez(path, x=np.ones(3))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_an_archive_of_arrays_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "good.npz", x=np.zeros(100_000), y=np.arange(3))
    x, y = read_npz(tmp_path / "good.npz", ("x", "y"))
    assert x.sum() == 0 and y.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"bad\.npz is damaged: it declares 4,294,967,294 bytes"):
        read_npz(lying_npz(tmp_path / "bad.npz"), ("x",))


@pytest.mark.slow
def test_a_cache_that_declares_too_much_is_made_again(tmp_path: Path) -> None:
    data = MNIST1D()
    data.cache_dir = tmp_path
    first = data._cached()
    [file] = tmp_path.glob("*.npz")
    lying_npz(file)
    assert np.array_equal(data._cached()["x"], first["x"])
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_an_idx_file_that_declares_too_much_is_refused(tmp_path: Path, name: str) -> None:
    content = b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 28, 28) + bytes(100)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=rf"{name} is damaged: it declares 3,367,254,359,280 bytes"):
        read_idx(tmp_path / name)


def test_a_compressed_idx_file_is_read_up_to_what_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes(10**7)))
    with pytest.raises(UserError, match="declares 3 bytes of data, but it contains more"):
        read_idx(path)


def test_a_text_in_an_archive_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/a.txt")
    member.size = 6000
    path = tmp_path / "texts.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(bytes(6000)))
    assert len(_content(path, "a.txt")) == 6000
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5000))
    with pytest.raises(
        UserError, match=r"texts\.tar\.gz contains 6,000 bytes, but only 5,000 bytes of memory are free"
    ):
        _content(path, "a.txt")


def test_an_image_that_declares_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(png(tmp_path / "set" / "cat" / "1.png", 1))
    bomb = png(tmp_path / "set" / "dog" / "2.png", 60_000)
    with pytest.raises(
        UserError, match=r"2\.png cannot be read as an image \(Image size \(3600000000 pixels\) exceeds"
    ):
        ImageFolder(root=tmp_path / "set", image_size=8).setup()
    with pytest.raises(UserError, match=r"2\.png cannot be read.*Image size \(3600000000 pixels\) exceeds"):
        predicted(bomb, (3, 8, 8), torch.uint8)


def test_a_recording_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "yes"
    folder.mkdir()
    declared = 2**31 - 2**21
    sound = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", declared)
    (folder / "1.wav").write_bytes(b"RIFF" + struct.pack("<I", 36 + declared) + b"WAVE" + sound + bytes(200))
    with pytest.raises(UserError, match=r"1\.wav .*: repair"):
        AudioFolder(root=tmp_path, sample_rate=8000).setup()


def test_a_compressed_model_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    container.write(path, {"w": torch.arange(1000.0)}, CompressedState(), {})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5000))
    with pytest.raises(UserError, match=r"model does not fit into memory: its tensors .*18,000 bytes.* 5,000"):
        container.read(path)


def test_a_parquet_file_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"a": np.zeros(100_000), "b": 1}).to_parquet(path)
    assert path.stat().st_size < 20_000
    assert read_table(path)[0].shape == (100_000, 2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(UserError, match=r"table\.parquet contains 1,600,000 bytes, but only 1,000,000 bytes of memory"):
        read_table(path)
