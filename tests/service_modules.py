"""A datamodule of images and a task that keeps what it is given, as people write them: for tests of services."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SEEN: dict[str, list[Any]] = {"train": [], "val": []}  # batches of the last run in this process


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Samples(Dataset):
    """Images [1, 8, 8] in 0..1, whose class is the brighter third; `form`: what a sample is."""

    def __init__(self, count: int, seed: int, form: str) -> None:
        source = torch.Generator().manual_seed(seed)
        self.x = torch.rand(count, 1, 8, 8, generator=source)
        self.y = self.x[:, 0, :, :6].reshape(count, 8, 3, 2).sum((1, 3)).argmax(1)
        self.form = form

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        x, y = self.x[i], self.y[i]
        forms = {"tuple": (x, y), "list": [x, y], "named": Pair(x, y), "dict": {"x": x, "y": y, "name": "a"}}
        return {**forms, "three": (x, y, y), "boxes": {"image": x}, "signed": (x - 0.5, y), "mask": (x, x[0] > 0.5)}[
            self.form
        ]


class Images(pl.LightningDataModule):
    num_classes = 3

    def __init__(self, form: str = "tuple", shuffle: bool = False, batch_size: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.form, self.shuffle, self.batch_size, self.seed = form, shuffle, batch_size, seed

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    def setup(self, stage: str) -> None:
        self.sets = [Samples(count, self.seed + part, self.form) for part, count in enumerate((43, 21, 31))]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.sets[0], self.batch_size, shuffle=self.shuffle)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.sets[1], self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.sets[2], self.batch_size)


class HalvedImages(Images):
    """Has the hook itself in which augmentation takes place."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] / 2, batch[1]] if self.trainer.training else batch


class NamelessImages(Images):
    """Says nothing of its shapes."""

    num_classes = None  # type: ignore[assignment]
    input_shape = None  # type: ignore[assignment]


class TwoValidations(Images):
    def val_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        return [super().val_dataloader()] * 2


class ImageTask(pl.LightningModule):
    def __init__(self, lr: float = 0.1, keep: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)

    def _loss(self, batch: Any, part: str) -> Tensor:
        if self.hparams["keep"] and not self.trainer.sanity_checking:
            SEEN[part].append(batch)
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        outputs = self.net(x)
        self.accuracy(outputs, y)
        return nn.functional.cross_entropy(outputs, y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch, "val"), batch_size=8, sync_dist=True)
        self.log("val_accuracy", self.accuracy)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch, "val"), batch_size=8)
        self.log("test_accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


class OwnIterator(ImageTask):
    """Takes the batches itself."""

    def training_step(self, dataloader_iter: Any) -> Tensor:
        return self._loss(next(dataloader_iter)[0], "train")
