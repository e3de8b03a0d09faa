"""PNG files in a folder for each class, with an ordinary DataLoader of tuples."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms


class PngFolder(pl.LightningDataModule):
    """`folder/CLASS/*.png`, a third of them for validation and for the test each."""

    def __init__(self, folder: str = "photos", size: int = 16, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        size = self.hparams["size"]
        prepared = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
        images = datasets.ImageFolder(self.hparams["folder"], prepared)
        split = torch.Generator().manual_seed(0)
        self.train, self.val, self.test = random_split(images, [1 / 3, 1 / 3, 1 / 3], split)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.hparams["batch_size"])

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.hparams["batch_size"])
