"""Data sets larger than memory: samples are read from their files batch by batch, in an order from (seed, epoch)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from annotated_types import Gt
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_modules.config.bounds import Count, Seed, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.fingerprint import hash_files
from lightning_modules.data.in_memory import BatchSize
from lightning_modules.zoo.data.large_files import FileSamples, NpySamples, ParquetSamples, TarSamples


class BlockSampler(DistributedSampler[Any]):
    """Visits blocks in random order, the samples of `mixed_blocks` of them shuffled together: an order from (seed, epoch).

    Each rank has a range of this order, and reads few blocks that others read. In training all ranks have equally many
    samples, and a remainder is left out; in evaluation (without `shuffle`) each sample is visited once.
    """

    def __init__(
        self, samples: FileSamples, mixed_blocks: int, shuffle: bool, seed: int, rank: int, ranks: int
    ) -> None:
        super().__init__(samples, ranks, rank, shuffle, seed)
        self.blocks, self.mixed_blocks = samples.blocks, mixed_blocks
        size = len(samples) // ranks * ranks if shuffle else len(samples)
        self.first, self.last = rank * size // ranks, (rank + 1) * size // ranks
        self.num_samples = self.last - self.first

    def __iter__(self) -> Iterator[int]:
        random, seen = np.random.default_rng([self.seed, self.epoch]), 0
        blocks = random.permutation(self.blocks) if self.shuffle else self.blocks
        for at in range(0, len(blocks), self.mixed_blocks):
            index = np.concatenate([np.arange(*block) for block in blocks[at : at + self.mixed_blocks]])
            if self.shuffle:
                random.shuffle(index)
            yield from map(int, index[max(self.first - seen, 0) : max(self.last - seen, 0)])
            seen += len(index)


class LargeData(pl.LightningDataModule):
    """Batches (x, y) from the files ``root/train*``, ``root/val*`` and ``root/test*`` of one format.

    Args:
        batch_size: samples per process and step.
        num_outputs: number of classes or of target values, for models that take it.
        num_workers: processes that read.
        mixed_blocks: how many blocks are shuffled together: row groups of parquet, which are held in memory, else 4,096 samples.
        dtype, scale: x is converted to this type, and divided by `scale`.
        hashed: what `fingerprint` hashes of the files: "full" their contents, "quick" their names, sizes and times.
        columns, target: of parquet; null: all but the target.

    Raises UserError if files are missing, damaged or do not fit together.
    """

    @bounded
    def __init__(
        self,
        *,
        root: str | Path,
        format: Literal["npy", "parquet", "tar"],
        batch_size: BatchSize = 64,
        num_outputs: Count | None = None,
        num_workers: Whole = 0,
        seed: Seed = 0,
        mixed_blocks: Count = 256,
        dtype: Literal["float32", "int64"] = "float32",
        scale: Annotated[float, Gt(0)] = 1.0,
        hashed: Literal["full", "quick"] = "full",
        columns: Sequence[str] | None = None,
        target: str = "label",
    ) -> None:
        super().__init__()
        self.num_outputs, self.batch_size, self.num_workers, self.seed = num_outputs, batch_size, num_workers, seed
        self.mixed_blocks, self.dtype, self.scale, self.hashed = mixed_blocks, dtype, scale, hashed
        folder = Path(root).expanduser()
        self.files = [file for part in ("train", "val", "test") for file in folder.glob(f"{part}*.{format}")]
        self.parts: dict[str, FileSamples] = {}
        for part in ("train", "val", "test"):
            pattern = f"{part}_x*.npy" if format == "npy" else f"{part}*.{format}"
            files = sorted(folder.glob(pattern))
            if format == "parquet":
                samples: FileSamples = ParquetSamples(files, columns, target, mixed_blocks)
            else:
                samples = {"npy": NpySamples, "tar": TarSamples}[format](files)
            if len(samples):
                self.parts[part] = samples
            elif part == "train":
                raise UserError(f"data.root={root}: expected training samples in files {pattern}")
            if (expected := self.parts["train"].shape) != samples.shape and len(samples):
                raise UserError(f"{files[0]}: samples have shape {samples.shape}, those of training {expected}")
        self.input_shape = list(self.parts["train"].shape)

    def fingerprint(self) -> str:
        """A sha256 over the files."""
        return hash_files(self.files, quick=self.hashed == "quick")

    def train_dataloader(self) -> DataLoader[object]:
        return self._loaders("train")[0]

    def val_dataloader(self) -> list[DataLoader[object]]:
        return self._loaders("val")

    def test_dataloader(self) -> list[DataLoader[object]]:
        return self._loaders("test")

    def _loaders(self, part: str) -> list[DataLoader[Any]]:
        """One loader, or none if there are no files."""
        if part not in self.parts:
            return []
        share: PlainDict = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        ranks = share.get("rank", 0), share.get("num_replicas", 1)
        sampler = BlockSampler(self.parts[part], self.mixed_blocks, part == "train", self.seed, *ranks)
        how: PlainDict = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        return [DataLoader(self.parts[part], self.batch_size, sampler=sampler, collate_fn=self._to_tensors, **how)]

    def _to_tensors(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(batch[0].astype(self.dtype))
        y = torch.from_numpy(batch[1].astype("float32" if batch[1].dtype.kind == "f" else "int64"))
        return x if self.scale == 1 else x / self.scale, y
