"""Data sets larger than memory are read by blocks, divided among ranks, resumed exactly, and damaged files are named."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.zoo.data.large_data import BlockSampler, LargeData

SIZES = {"train": 121, "val": 21, "test": 33}
QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)


def samples(part: str) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(SIZES[part]).normal(size=(SIZES[part], 4)).astype("float32")
    return x, x[:, :3].argmax(1)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def npy_bytes(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same samples in each format, the training part in two files."""
    for part in SIZES:
        x, y = samples(part)
        for number, half in enumerate((slice(0, 15), slice(15, None))):
            np.save(tmp_path / f"{part}_x{number}.npy", x[half])
            np.save(tmp_path / f"{part}_y{number}.npy", y[half])
            table = pa.table({**{name: x[half, i] for i, name in enumerate("abcd")}, "label": y[half]})
            pq.write_table(table, tmp_path / f"{part}-{number}.parquet", row_group_size=10)
            with tarfile.open(tmp_path / f"{part}-{number}.tar", "w") as archive:
                for i, (row, label) in enumerate(zip(x[half], y[half], strict=True)):
                    add(archive, f"{i:04}.npy", npy_bytes(row))
                    add(archive, f"{i:04}.cls", str(label).encode())
    return tmp_path


def read(data: LargeData, part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    loaders = data.train_dataloader() if part == "train" else getattr(data, f"{part}_dataloader")()[0]
    x, y = zip(*loaders, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("format", ["npy", "parquet", "tar"])
def test_every_format_gives_the_same_samples_in_files_order_and_shuffled_by_epoch(format: str, folder: Path) -> None:
    data = LargeData(root=folder, format=format, batch_size=16, mixed_blocks=2)
    assert (data.input_shape, [len(part) for part in data.parts.values()]) == ([4], list(SIZES.values()))
    x, y = read(data, "val")
    assert np.array_equal(x, samples("val")[0]) and np.array_equal(y, samples("val")[1])
    orders = []
    for epoch in (0, 1, 0):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        orders.append(torch.cat([batch[0] for batch in loader]))
        assert np.array_equal(np.sort(orders[-1][:, 0]), np.sort(samples("train")[0][:, 0]))
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])


def test_ranks_divide_the_samples_and_evaluate_each_once(folder: Path) -> None:
    part = LargeData(root=folder, format="parquet").parts["train"]
    for ranks in (2, 3, 7):
        trained, evaluated = (
            [list(BlockSampler(part, 4, shuffle, 0, rank, ranks)) for rank in range(ranks)] for shuffle in (True, False)
        )
        assert {len(index) for index in trained} == {121 // ranks}
        assert len({i for index in trained for i in index}) == 121 // ranks * ranks
        assert sorted(i for index in evaluated for i in index) == list(range(121))


def test_images_of_shards_are_decoded_and_workers_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 7, 3), dtype="uint8")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for i, image in enumerate(pixels):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "png")
            add(archive, f"cats/{i}.cls", b"3\n")
            add(archive, f"cats/{i}.png", content.getvalue())
    data = LargeData(root=tmp_path, format="tar", scale=255.0, batch_size=4, num_workers=1)
    x, y = read(data)
    assert data.val_dataloader() == data.test_dataloader() == []
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert sorted(x.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    assert y.tolist() == [3] * 6


def test_columns_of_lists_and_float_targets_are_read(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"x": [[1.0, 2], [3, 4]], "price": [0.5, 1.5], "id": ["a", "b"]}), tmp_path / "train.parquet"
    )
    x, y = read(LargeData(root=tmp_path, format="parquet", columns=["x"], target="price"))
    assert (sorted(x.tolist()), sorted(y.tolist()), y.dtype) == ([[1, 2], [3, 4]], [0.5, 1.5], torch.float32)


def cut(name: str, share: float) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(
        (content := (folder / name).read_bytes())[: int(len(content) * share)]
    )


def damage(name: str, at: int, count: int) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at : at + count] = b"\xff" * count
        (folder / name).write_bytes(content)

    return write


def append(name: str, content: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        with tarfile.open(folder / "train-0.tar", "a") as archive:
            add(archive, name, content)

    return write


def table(**columns: list[Any]) -> Callable[[Path], object]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "train-0.parquet")


MISTAKES: list[tuple[str, Callable[[Path], object], str]] = [
    ("npy", cut("train_x0.npy", 0), "train_x0.npy cannot be read"),
    ("npy", cut("train_x1.npy", 0.5), "train_x1.npy cannot be read: mmap length"),
    ("npy", lambda folder: (folder / "val_y0.npy").unlink(), r"val_x0.npy cannot be read.*val_y0.npy"),
    ("npy", lambda folder: np.save(folder / "train_x0.npy", np.array(["1"] * 15)), "train_x0.npy.*expected numbers, got <U1"),
    ("npy", lambda folder: np.save(folder / "train_x0.npy", np.array([{}] * 15)), "train_x0.npy.*Python objects"),
    ("npy", lambda folder: np.save(folder / "train_y1.npy", np.zeros(3)), "train_x1.npy.*106 samples, but 3 targets"),
    ("npy", lambda folder: np.save(folder / "train_x1.npy", np.zeros((106, 5))), r"train_x1.npy.*\(5,\), the first one \(4,\)"),
    ("npy", lambda folder: [np.save(folder / f"val_x{i}.npy", np.zeros((n, 9))) for i, n in ((0, 15), (1, 6))], "val_x0.npy"),
    ("parquet", cut("train-1.parquet", 0.5), "train-1.parquet cannot be read"),
    ("parquet", damage("train-1.parquet", 100, 300), "train-1.parquet cannot be read"),
    ("parquet", table(a=[1.0, None], b=[1, 1], label=[1, 0]), "train-0.parquet.*null values in it: a"),
    ("parquet", table(a=["1"], label=[1]), "train-0.parquet.*expected numbers, got <U1"),
    ("parquet", table(a=[1]), "train-0.parquet.*no column.*label"),
    ("tar", cut("train-0.tar", 0), "train-0.tar cannot be read: empty file"),
    ("tar", cut("train-0.tar", 0.5), "train-0.tar cannot be read"),
    ("tar", damage("train-0.tar", 512 * 10, 512), "train-0.tar.*no end-of-archive mark"),
    ("tar", damage("train-1.tar", 512, 40), "train-1.tar cannot be read"),
    ("tar", append("z.json", b"{}"), "train-0.tar.*z.json is not"),
    ("tar", append("z.cls", b"1"), "train-0.tar.*z has no sample"),
    ("tar", append("z.cls", b"cat"), "train-0.tar.*cat"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "act", "message"), MISTAKES)
def test_a_damaged_file_is_named(format: str, act: Callable[[Path], object], message: str, folder: Path) -> None:
    act(folder)
    with pytest.raises(UserError, match=message):
        read(LargeData(root=folder, format=format))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected training samples in files train\*\.tar"):
        LargeData(root=tmp_path, format="tar")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    shape = (60_000, 3200)  # 192 MB
    np.save(tmp_path / "train_x.npy", np.ones(shape, dtype=np.uint8))
    np.save(tmp_path / "train_y.npy", np.zeros(shape[0], dtype=np.int64))
    data = LargeData(root=tmp_path, format="npy", batch_size=500)
    Path("/proc/self/clear_refs").write_text("5")  # Linux counts the peak from here
    before = psutil.Process().memory_info().rss
    for _ in data.train_dataloader():
        pass
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None and int(peak[1]) * 1024 - before < 60e6


@pytest.mark.slow
def test_a_run_on_large_files_is_resumed_bit_for_bit_and_tests_each_sample_once(
    train: Callable[..., Any], store: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    words = (
        "task=lightning_module",
        "task._target_=user_modules.Classifier",
        "data=parquet",
        f"data.root={folder}",
        *QUIET,
    )
    whole = train(*words, "trainer.max_epochs=2", quick=False)
    assert (whole.data.metrics["test_samples"], whole.data.tags.get("resume")) == (33, None)
    assert not whole.data.tags["data.fingerprint"].startswith("declared")
    half = train(*words, "trainer.max_epochs=1", "name=half", quick=False)
    train("resume=half", "trainer.max_epochs=2", quick=False)
    states = [
        torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for run in (whole, half)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memmap", "parquet", "tar_shards"])
def test_ranks_train_on_large_files_and_test_each_sample_once(
    name: str, train: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    words = (
        "task=lightning_module",
        "task._target_=user_modules.Classifier",
        f"data={name}",
        f"data.root={folder}",
        *QUIET,
    )
    run = train(*words, "strategy=ddp", "trainer.devices=2", "data.num_workers=1", "trainer.max_epochs=1", quick=False)
    assert (run.data.metrics["comm/world_size"], run.data.metrics["test_samples"]) == (2, 33)
