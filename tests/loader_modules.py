"""Loaders as users build them, and a module that counts what it is given of their samples on all ranks."""

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
)

COUNTS = {"train": 64, "val": 21, "test": 33}


class Numbers(Dataset):
    """Sample i is [i]."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class NumberStream(IterableDataset):
    """The same, one after the other; `of_rank`: those of this rank only."""

    def __init__(self, count: int, of_rank: bool) -> None:
        self.count, self.of_rank = count, of_rank

    def __iter__(self):
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() and self.of_rank else 1
        first = torch.distributed.get_rank() if ranks > 1 else 0
        return (torch.tensor([float(i)]) for i in range(first, self.count, ranks))


class SizedStream(NumberStream):
    """Of known length."""

    def __len__(self) -> int:
        return self.count // 2


class Pairwise(BatchSampler):
    """Batches of neighbours in random order, as samplers of similar lengths make them."""

    def __iter__(self):
        batches = list(super().__iter__())
        return (batches[i] for i in torch.randperm(len(batches)).tolist())


class OwnBatches(Sampler):
    """Batches of its own, from nothing that could be divided."""

    def __iter__(self):
        return iter([[0, 1, 2, 3]] * 10)

    def __len__(self) -> int:
        return 10


class Loaders(pl.LightningDataModule):
    """`kind` of the loaders, and that of validation and test."""

    def __init__(self, kind: str, evaluated: str = "plain") -> None:
        super().__init__()
        self.kind, self.evaluated = kind, evaluated

    def _loader(self, part: str, kind: str) -> DataLoader:
        samples, size = Numbers(COUNTS[part]), 4
        match kind:
            case "plain":
                return DataLoader(samples, size)
            case "shuffled":
                return DataLoader(samples, size, shuffle=True)
            case "batch_sampler":
                return DataLoader(samples, batch_sampler=Pairwise(RandomSampler(samples), size, drop_last=False))
            case "own_batches":
                return DataLoader(samples, batch_sampler=OwnBatches())
            case "distributed":
                return DataLoader(samples, size, sampler=DistributedSampler(samples, shuffle=part == "train"))
            case "distributed_alone":  # made before the ranks were known
                return DataLoader(samples, size, sampler=DistributedSampler(samples, num_replicas=1, rank=0))
            case "stream":
                return DataLoader(NumberStream(COUNTS[part], True), size)
            case "undivided":
                return DataLoader(NumberStream(COUNTS[part], False), size)
            case "sized":
                return DataLoader(SizedStream(COUNTS[part], True), size)
            case "uneven":
                return DataLoader(NumberStream(COUNTS[part] + 1, True), 1)
        raise ValueError(kind)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.kind)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", self.evaluated)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.evaluated)


class Counter(pl.LightningModule):
    """Logs the number and the sum of the samples of each part, over all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        parts = [f"{part}_{kind}" for part in COUNTS for kind in ("count", "sum")]
        self.seen = nn.ModuleDict({name: torchmetrics.SumMetric() for name in parts})

    def _count(self, part: str, batch: Tensor) -> None:
        for kind, value in (("count", float(len(batch))), ("sum", batch.sum())):
            metric = self.seen[f"{part}_{kind}"]
            metric(value)
            self.log(f"{part}_{kind}", metric, on_step=False, on_epoch=True)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._count("train", batch)
        return self.model(batch / 100).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._count("val", batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._count("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)
