"""The task: a network with its loss, metrics and optimizer. Nothing here is Touchstone's."""

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn


class DigitClassifier(pl.LightningModule):
    """A hidden layer on images of 8x8 pixels; momentum and a cosine schedule by epoch."""

    def __init__(self, hidden: int = 32, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.val_accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)
        self.test_accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)
        self.example_input_array = torch.zeros(2, 64)  # for `touchstone predict`, `serve` and `export`

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.test_accuracy(self(batch[0]), batch[1])
        self.log("test_accuracy", self.test_accuracy)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams["lr"], momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)}
