"""A plain LightningModule around a network, on scikit-learn's digits in tuples."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Convnet(pl.LightningModule):
    """Scales its inputs, calls its network, and has a learned temperature outside of it."""

    def __init__(self, width: int = 16, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10),
        )  # fmt: skip
        self.temperature = nn.Parameter(torch.ones(()))
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x / 16 - 0.5) * self.temperature

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams["lr"])


class Digits(pl.LightningDataModule):
    """The split is drawn in `setup`; `labels_first`: tuples (y, x) for the training."""

    def __init__(self, labels_first: bool = False) -> None:
        super().__init__()
        self.labels_first = labels_first

    def setup(self, stage: str) -> None:
        x, y = load_digits(return_X_y=True)
        samples = TensorDataset(torch.from_numpy(x).float().view(-1, 1, 8, 8), torch.from_numpy(y))
        self.parts = random_split(samples, [1000, 400, 397])

    def train_dataloader(self) -> DataLoader:
        swap = (lambda samples: tuple(torch.utils.data.default_collate(samples))[::-1]) if self.labels_first else None
        return DataLoader(self.parts[0], 50, shuffle=True, collate_fn=swap)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], 200)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], 200)


class Nested(Convnet):
    """The network is a part of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.model = None
        self.net = nn.ModuleDict({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), "head": nn.Linear(32, 10)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["head"](self.net["encoder"](x).relu())


class Bare(pl.LightningModule):
    """Has nothing that compression needs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.body(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Manual(Convnet):
    """Takes its steps itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class Twice(Convnet):
    """Calls its network twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.model(-x)


class SameZeros(pl.Callback):
    """Fails unless the same weights are zero on all ranks."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: object) -> None:
        if not trainer.is_last_batch:
            return  # the last step of an epoch: the validation would apply the masks again
        weights = [layer.weight for layer in pl_module.model if isinstance(layer, nn.Conv2d | nn.Linear)]
        zeros = torch.cat([(weight == 0).flatten() for weight in weights])
        assert (pl_module.all_gather(zeros) == zeros).all()
        print(f"rank {trainer.global_rank} of {trainer.world_size}: {int(zeros.sum())} zeros, as all ranks", flush=True)


class TwoInputs(Convnet):
    """Two inputs, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = (torch.rand(3, 1, 8, 8) * 16, torch.ones(3, 64))

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        logits = self.model(image * mask.view_as(image))
        return {"logits": logits, "seen": mask.mean(1)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0], torch.ones(len(batch[0]), 64))["logits"], batch[1])

    validation_step = test_step = pl.LightningModule.test_step


class Predicting(Bare):
    """Has `predict_step` only."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.rand(2, 1, 8, 8)

    def predict_step(self, batch: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        scores = self.body(batch.flatten(1)).softmax(1)
        self.log("mean", scores.mean())
        return scores.argmax(1), scores.amax(1)


class Boxes(Predicting):
    """Returns a list of dicts, which cannot be served; a part of it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm1d(10).eval()

    def predict_step(self, batch: Tensor, batch_idx: int) -> list[dict[str, Tensor]]:
        return [{"boxes": box} for box in self.body(batch.flatten(1))]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        assert not self.frozen.training
        return super().training_step(batch, batch_idx)
