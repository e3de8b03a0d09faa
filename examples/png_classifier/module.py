"""A classifier of images as one writes it for Lightning: hyper-parameters, torchmetrics, a schedule by step."""

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn


class Classifier(pl.LightningModule):
    """Two convolutions and a linear layer."""

    def __init__(self, classes: int = 2, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        convolutions = [nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU()]
        self.layers = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        self.val_accuracy = torchmetrics.Accuracy("multiclass", num_classes=classes)
        self.test_accuracy = torchmetrics.Accuracy("multiclass", num_classes=classes)
        self.example_input_array = torch.zeros(2, 3, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        outputs = self(batch[0])
        self.val_accuracy(outputs, batch[1])
        self.log("val/acc", self.val_accuracy)
        self.log("val/loss", nn.functional.cross_entropy(outputs, batch[1]), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.test_accuracy(self(batch[0]), batch[1])
        self.log("test/acc", self.test_accuracy)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 10 * self.hparams["lr"], total_steps=int(self.trainer.estimated_stepping_batches) + 1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
