"""A datamodule with several kinds of data sets: for tests of what reads samples by index."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(3), 0)])


class Changing(Dataset):
    """Samples that a transform changes, or of the shapes `sizes`."""

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return (torch.zeros(self.sizes[i > 35]) if self.sizes else torch.rand(3)), i % 2


class Rows(pl.LightningDataModule):
    """200 rows of three columns in two classes, 60 of them for validation; the test holds two rows of the training."""

    def __init__(self, form: str = "tuple", shift: float = 0.0) -> None:
        super().__init__()
        self.form, self.shift = form, shift

    def setup(self, stage: str) -> None:
        source = torch.Generator().manual_seed(0)
        x = torch.randn(200, 3, generator=source)
        self.rows = TensorDataset(x, (x[:, 0] > 0).long())
        x[7] = x[150]  # in the validation
        if stage == "test":
            other = torch.randn(80, 3, generator=source) + self.shift
            other[:2] = x[:2]
            self.tested = TensorDataset(other, torch.arange(80) % 2)

    def train_dataloader(self) -> DataLoader:
        several = {"stream": Stream(), "random": Changing(), "ragged": Changing((3, 4))}
        if self.form in several:
            return DataLoader(several[self.form], 16)
        if self.form == "batches":
            return DataLoader(self.rows, batch_sampler=[[0, 1], [2, 3]])
        collate = (lambda rows: [torch.stack([x for x, _ in rows])] * 3) if self.form == "three" else None
        if self.form == "dict":
            collate = lambda rows: dict(zip("xy", map(torch.stack, zip(*rows, strict=True)), strict=True))  # noqa: E731
        return DataLoader(self.rows, 16, sampler=SubsetRandomSampler(range(140)), collate_fn=collate)

    def val_dataloader(self) -> list[DataLoader]:
        return [
            DataLoader(self.rows, 16, sampler=SubsetRandomSampler(part)) for part in (range(140, 170), range(170, 200))
        ]

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.tested, 16, shuffle=False)
