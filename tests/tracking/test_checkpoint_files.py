"""Checkpoint files: every writer adds a checksum, every reader verifies it, and nothing damaged is loaded silently."""

import hashlib
import io
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.distillation.teacher import load_teacher
from lightning_modules.compression.pruning.one_shot import OneShot
from lightning_modules.compression.stage import StageContext
from lightning_modules.compression.stage_runner import StageRunner
from lightning_modules.config.errors import UserError
from lightning_modules.export.source import load_source
from lightning_modules.model import checksum
from lightning_modules.model.checksum import DamagedFileError, load_verified, save_with_checksum
from lightning_modules.run.predict import find_model
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import VerifiedCheckpointIO, read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint, continue_run, recorded_config
from lightning_modules.zoo.model.pretrained import read_state_dict
from lightning_modules.zoo.strategy.sharded_checkpoint import read_shards, write_shards

CHECKSUM = 2 + len("touchstone sha256 ") + 64  # bytes: length of the comment, label, digest


def has_checksum(path: Path) -> bool:
    content = path.read_bytes()
    digest = hashlib.sha256(content[:-CHECKSUM]).hexdigest()
    with zipfile.ZipFile(path) as archive:
        return archive.comment == f"touchstone sha256 {digest}".encode()


def without_checksum(path: Path) -> Path:
    """Make a file what an earlier version wrote."""
    path.write_bytes(path.read_bytes()[:-CHECKSUM] + b"\0\0")
    return path


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def content_of(value: Any) -> bytes:
    """Every tensor, counter and name of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def files_of(store: Any, run: Any) -> list[Path]:
    return [best_checkpoint(store, run), artifact_path(store, run, "checkpoints/last.ckpt")]


def silent_flips(path: Path, copy: Path, count: int) -> list[int]:
    """The bits, of `count` spread over a file, that it loads with other content or without a word when flipped."""
    bits = 8 * path.stat().st_size
    expected, silent = content_of(read_checkpoint(path)), []
    for bit in (int(i * (bits - 1) / (count - 1)) for i in range(count)):
        copy.write_bytes(path.read_bytes())
        flip(copy, bit)
        checksum._warned.clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                loaded = content_of(read_checkpoint(copy))
            except UserError as error:
                assert f"{copy} is damaged" in str(error)
            else:
                silent += [bit] * (loaded != expected or not said)
    return silent


@pytest.mark.parametrize("count", [10, pytest.param(250, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_checkpoint_is_loaded_silently(
    recorded_run: Any, store: Any, tmp_path: Path, count: int
) -> None:
    for path in files_of(store, recorded_run):
        assert silent_flips(path, tmp_path / "flipped.ckpt", count) == []
        assert silent_flips(without_checksum(path), tmp_path / "flipped.ckpt", count) == []


@pytest.mark.slow
def test_every_writer_adds_a_checksum(train: Any, store: Any, recorded_run: Any, tmp_path: Path) -> None:
    files = files_of(store, recorded_run)
    own = "{_target_:pytorch_lightning.callbacks.ModelCheckpoint,dirpath:%s,filename:mine}" % (tmp_path / "own")
    quiet = ("tracking.system_metrics_s=null", "tracking.pictures=false")
    words = ("data.per_class=10", "model=mlp", *quiet, "trainer.max_epochs=1")
    files += files_of(store, train(*words, "callbacks=last", f"+callbacks.own={own}", quick=False))
    files.append(tmp_path / "own" / "mine.ckpt")
    write_shards(tmp_path / "last.shards", {"epoch": 1}, rank=0, world_size=1, barrier=lambda: None)
    files += (tmp_path / "last.shards").iterdir()
    task: Any = nn.ModuleDict({"model": nn.Linear(2, 2)})
    context = StageContext(
        task, CompressedState(), torch.zeros(1, 2), lambda: iter([]), lambda _: 0.0, True, 0, tmp_path, print
    )
    phases = StageRunner(SimpleNamespace(after=[]), context, lambda *_: 0, tmp_path, writes=True)  # type: ignore[arg-type]
    phases._write(tmp_path / "1-prune" / "done.ckpt", OneShot(0.5), 0)
    files.append(tmp_path / "1-prune" / "done.ckpt")
    assert [path.name for path in files] == [
        "best.ckpt", "last.ckpt", "last_weights.ckpt", "last.ckpt", "mine.ckpt", "rank-0-of-1.ckpt", "done.ckpt",
    ]  # fmt: skip
    assert all(map(has_checksum, files))
    assert torch.load(files[0], weights_only=True)["epoch"] == 0  # without our reader


def test_every_reader_refuses_a_damaged_file(train: Any, store: Any, recorded_run: Any, tmp_path: Path) -> None:
    import mlflow

    run = recorded_run
    run_id, model = run.info.run_id, f"models:/{run.data.tags['touchstone.model_id']}"
    for path in files_of(store, run):
        flip(path, 8 * path.stat().st_size // 2)
    write_shards(tmp_path / "last.shards", {"w": torch.zeros(99)}, rank=0, world_size=1, barrier=lambda: None)
    [shard] = (tmp_path / "last.shards").iterdir()
    flip(shard, 8 * 300)
    best, last = files_of(store, run)
    readers: dict[str, Callable[[], Any]] = {
        "resume": lambda: train(f"resume={run_id}", quick=False),
        "init_from": lambda: train(f"init_from={run_id}"),
        "predict": lambda: find_model(store, run_id),
        "predict of a model": lambda: find_model(store, model),
        "export": lambda: load_source(store, run),
        "pyfunc": lambda: mlflow.pyfunc.load_model(model),
        "teacher of a run": lambda: load_teacher(run_id, None, (1, 8, 8), 10),
        "teacher of a model": lambda: load_teacher(model, None, (1, 8, 8), 10),
        "shards": lambda: read_shards(tmp_path / "last.shards"),
        "trainer": lambda: VerifiedCheckpointIO().load_checkpoint(last, weights_only=False),
        "model.weights": lambda: read_state_dict(best),
    }
    for name, read in readers.items():
        with pytest.raises(UserError, match=r"is damaged.*does not match its checksum|damaged.*checksum") as refused:
            read()
        assert len(str(refused.value).splitlines()) == 1, name


@pytest.mark.slow
def test_a_run_that_starts_again_because_its_checkpoint_is_damaged_says_so(store: Any, recorded_run: Any) -> None:
    run = recorded_run
    last = artifact_path(store, run, "checkpoints/last.ckpt")
    flip(last, 8 * 500)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.* The run restarts from its first step\.$"):
        assert continue_run(store, run.info.run_id, recorded_config(store, run)).checkpoint is None
    last.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert continue_run(store, run.info.run_id, recorded_config(store, run)).checkpoint is None


def test_a_file_without_a_checksum_is_loaded_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "earlier.ckpt"
    torch.save({"epoch": 3, "w": torch.arange(9)}, path)
    with pytest.warns(UserWarning) as said:
        assert [read_checkpoint(path)["epoch"] for _ in range(2)] == [3, 3]
    assert [str(warning.message) for warning in said] == [
        f"{path} has no checksum: an earlier version wrote it. Only its CRC-32 was verified."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save({"w": torch.arange(9)}, tmp_path / "library.pth")
        assert read_state_dict(tmp_path / "library.pth")["w"].tolist() == list(range(9))  # of others: none is expected


def test_a_file_that_claims_more_than_it_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    torch.save({"w": torch.zeros(2**22)}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as small:
        for record in archive.infolist():
            small.writestr(record.filename, archive.read(record))
    size = (tmp_path / "small.ckpt").stat().st_size
    assert size < 2**16
    tracemalloc.start()
    with pytest.raises(
        UserError, match=rf"small\.ckpt is damaged.*its records claim 16,7\d\d,\d\d\d bytes, but .* {size:,}$"
    ):
        read_checkpoint(tmp_path / "small.ckpt")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_file_larger_than_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_with_checksum({"w": torch.zeros(1000)}, tmp_path / "large.ckpt")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    with pytest.raises(UserError, match=r"large\.ckpt does not fit into memory: .* but 100 bytes are free"):
        read_checkpoint(tmp_path / "large.ckpt")


def test_a_file_is_verified_in_constant_memory(tmp_path: Path) -> None:
    save_with_checksum({"w": torch.zeros(2**23)}, tmp_path / "large.ckpt")  # 32 MiB
    tracemalloc.start()
    load_verified(tmp_path / "large.ckpt")
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_with_checksum({"epoch": 1}, path)
    with pytest.raises(AttributeError, match="lambda"):
        save_with_checksum({"w": torch.zeros(999), "epoch": lambda: 2}, path)
    assert load_verified(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("end", [0, 10, -1, -40, -CHECKSUM, -CHECKSUM - 1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, end: int) -> None:
    path = tmp_path / "cut.ckpt"
    save_with_checksum({"epoch": 1}, path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DamagedFileError):
        load_verified(path)


def test_lightning_loads_a_checkpoint_by_itself(tmp_path: Path) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

    module = Module()
    trainer = pl.Trainer(plugins=[VerifiedCheckpointIO()], logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert has_checksum(tmp_path / "a.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(loaded.layer.weight, module.layer.weight)
