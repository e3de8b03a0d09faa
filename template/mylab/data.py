"""The data: scikit-learn's handwritten digits, split in three. Nothing here is Touchstone's, except `fingerprint`."""

import hashlib

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset


class Digits(pl.LightningDataModule):
    """1,797 images of 8x8 pixels: 900 for training, 447 for validation, 450 for the test."""

    def __init__(self, batch_size: int = 32, split_seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.split_seed = batch_size, split_seed

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
        order = np.random.default_rng(self.split_seed).permutation(len(data))
        self.train, self.val, self.test = (Subset(data, part.tolist()) for part in np.split(order, [900, 1347]))

    def fingerprint(self) -> str:
        """What the record says the data are, so that runs on other data are told apart; optional."""
        images, labels = load_digits(return_X_y=True)
        split = str(self.split_seed).encode()
        return hashlib.sha256(images.tobytes() + labels.tobytes() + split).hexdigest()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 450)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, 450)
