"""Peak memory of one epoch over 4 GB of each format of data larger than memory."""

import contextlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.measure import Row, table

GB, CHUNK = 4, 4096
SHAPES = {"memmap": (3, 64, 64), "parquet": (256,), "tar_shards": (3, 64, 64)}
_STATUS = Path("/proc/self/status")  # of Linux


class Linear(pl.LightningModule):
    """A linear classifier of ten classes."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(inputs, 10)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


class PeakMemory(pl.Callback):
    """Prints the resident memory at the start of training and its peak, in MB."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        self.before = resident("VmRSS")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"memory: {self.before} {resident('VmHWM')}")


def resident(key: str) -> float:
    """Return the entry of the process's status in MB: VmRSS or VmHWM, its peak."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


def run(repeats: int) -> None:
    """MB beyond those before training, for 4 GB and for a tenth of it: that they hardly differ is the point."""
    rows = []
    for name in SHAPES:
        peaks = {gigabytes: [_train(name, gigabytes) for _ in range(repeats)] for gigabytes in (GB / 10, GB)}
        for gigabytes, found in peaks.items():
            whole = f"whole process: {max(peak for _, peak in found):.0f} MB"
            rows.append(Row(f"{name}, {gigabytes:g} GB", [peak - start for start, peak in found], 500, note=whole))
    table("large_data (MB of resident memory beyond those before training, one epoch of a linear model)", rows)


def _train(name: str, gigabytes: float) -> tuple[float, float]:
    """Resident MB before training and at most, of a process that trains on a generated set, which is then deleted."""
    with tempfile.TemporaryDirectory() as folder:
        _WRITERS[name](Path(folder), SHAPES[name], int(gigabytes * 1e9) // _bytes(name))
        script = Path(__file__).resolve().parents[1] / "train.py"
        words = [
            "task=lightning_module", "task._target_=benchmarks.large_data.Linear", f"+task.inputs={np.prod(SHAPES[name])}",
            f"data={name}", f"data.root={folder}", "data.hashed=quick", "data.batch_size=256", "trainer.max_epochs=1",
            "tracking=none", "callbacks.progress=null", "callbacks.summary=null",
            "+callbacks.memory._target_=benchmarks.large_data.PeakMemory",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, script, *words], cwd=script.parent, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")
    before, peak = next(line for line in done.stdout.splitlines() if line.startswith("memory: ")).split()[1:]
    return float(before), float(peak)


def _bytes(name: str) -> int:
    return int(np.prod(SHAPES[name])) * (4 if name == "parquet" else 1)


def _chunks(shape: tuple[int, ...], count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    source = np.random.default_rng(0)
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        yield source.integers(0, 255, (size, *shape), dtype="uint8"), source.integers(0, 10, size)


def _write_npy(folder: Path, shape: tuple[int, ...], count: int) -> None:
    x = np.lib.format.open_memmap(folder / "train_x.npy", "w+", "uint8", (count, *shape))
    y = np.empty(count, dtype=np.int64)
    for number, (pixels, targets) in enumerate(_chunks(shape, count)):
        x[number * CHUNK : number * CHUNK + len(y)][: len(targets)] = pixels
        y[number * CHUNK : number * CHUNK + len(targets)] = targets
    np.save(folder / "train_y.npy", y)


def _write_parquet(folder: Path, shape: tuple[int, ...], count: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with contextlib.ExitStack() as stack:
        writer: Any = None
        for pixels, targets in _chunks(shape, count):
            columns = dict(enumerate(pixels.astype("float32").T))
            group = pa.table({**{f"x{i}": column for i, column in columns.items()}, "label": targets})
            writer = writer or stack.enter_context(
                ParquetWriter(folder / "train.parquet", group.schema, compression="none", use_dictionary=False)
            )
            writer.write_table(group)


def _write_tar(folder: Path, shape: tuple[int, ...], count: int) -> None:
    for shard, (pixels, targets) in enumerate(_chunks(shape, count)):
        with tarfile.open(folder / f"train-{shard:04}.tar", "w") as archive:
            for i, (image, target) in enumerate(zip(pixels, targets, strict=True)):
                content = io.BytesIO()
                np.save(content, image)
                for suffix, data in (("npy", content.getvalue()), ("cls", str(target).encode())):
                    member = tarfile.TarInfo(f"{i:04}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


_WRITERS = {"memmap": _write_npy, "parquet": _write_parquet, "tar_shards": _write_tar}
