"""LightningModules and datamodules as people write them, without anything of this package."""

import threading

import mlflow
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split


class Classifier(pl.LightningModule):
    """Hyper-parameters, dropout, a torchmetrics object, a schedule by step."""

    def __init__(self, width: int = 8, lr: float = 0.1, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(4, width), activation or nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.tested = torchmetrics.SumMetric()
        self.example_input_array = torch.zeros(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy)
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.tested(float(len(batch[0])))
        self.log("test_samples", self.tested)
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams["lr"], momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Network(nn.Module):
    """Has no arguments for the shapes of the data."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GAN(pl.LightningModule):
    """Two optimizers, manual optimization, no validation, test or forward."""

    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(latent, 4), nn.Linear(4, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, of_generator, of_discriminator = batch[0], *self.optimizers()
        fake = self.generator(torch.randn(len(real), self.hparams["latent"]))
        loss = nn.functional.softplus(-self.discriminator(real)) + nn.functional.softplus(
            self.discriminator(fake.detach())
        )
        self._step(of_discriminator, loss.mean())
        generator_loss = nn.functional.softplus(-self.discriminator(fake)).mean()
        self._step(of_generator, generator_loss)
        self.log_dict({"generator_loss": generator_loss, "discriminator_loss": loss.mean()}, on_epoch=True)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters(), 1e-2) for part in (self.generator, self.discriminator)]


class WithObject(Classifier):
    """Writes an object into its checkpoints that cannot be loaded without unpickling it."""

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["history"] = [TensorDataset(torch.zeros(1))]


class WithEntries(Classifier):
    """Reads what it has written into its checkpoints."""

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["mine"] = {"n": 3}

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        self.read = checkpoint["mine"]["n"]


class BuiltLater(Classifier):
    """Makes its layers in the hook of Lightning for that."""

    def __init__(self, width: int = 8, lr: float = 0.1) -> None:
        super().__init__(width, lr)
        self.layers = None

    def configure_model(self) -> None:
        if self.layers is None:
            self.layers = nn.Linear(4, 3)


class BuiltWithLock(BuiltLater):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class BuiltInSetup(Classifier):
    """Its last layer exists only after `setup`."""

    def setup(self, stage: str) -> None:
        self.layers.append(nn.Linear(3, 3))


class OwnLoaders(Classifier):
    """Has the loaders of `Points` itself."""

    def setup(self, stage: str) -> None:
        self.points = Points()
        self.points.setup(stage)

    def train_dataloader(self) -> DataLoader:
        return self.points.train_dataloader()

    def val_dataloader(self) -> DataLoader:
        return self.points.val_dataloader()

    def test_dataloader(self) -> DataLoader:
        return self.points.test_dataloader()


class Lazy(Classifier):
    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.layers = nn.Sequential(nn.LazyLinear(width), nn.ReLU(), nn.LazyLinear(3))
        self.example_input_array = None


class Diverging(Classifier):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * float("nan")


class LogsAtTheEnd(Classifier):
    def on_train_epoch_end(self) -> None:
        self.log("my_loss", 0.5)
        self.log("val_own", 0.5)


class LogAtTheEnd(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("by_callback", 0.5)


class OnlyPredicts(Classifier):
    forward = pl.LightningModule.forward

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    validation_step = test_step = training_step

    def predict_step(self, batch: Tensor, batch_idx: int = 0) -> Tensor:
        return self.layers(batch) > 0  # a mask


class Points(pl.LightningDataModule):
    """An ordinary shuffled DataLoader of tuples; the split is drawn in `setup`."""

    def __init__(self, samples: int = 121, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        samples = self.hparams["samples"]
        x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
        self.parts = random_split(TensorDataset(x, x[:, :3].argmax(1)), [samples - 41, 20, 21])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[0], self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], self.hparams["batch_size"])

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], self.hparams["batch_size"])


class _Stream(IterableDataset):
    def __init__(self, by_rank: bool) -> None:
        self.by_rank = by_rank

    def __iter__(self):
        divided = self.by_rank and torch.distributed.is_initialized()
        rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if divided else (0, 1)
        source = torch.Generator().manual_seed(0)
        for number in range(200):
            x = torch.randn(4, generator=source)
            if number % ranks == rank:
                yield x, x[:3].argmax()


class Stream(pl.LightningDataModule):
    """An iterable of unknown length; `by_rank`: whether each rank reads samples of its own."""

    def __init__(self, by_rank: bool = True) -> None:
        super().__init__()
        self.by_rank = by_rank

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Stream(self.by_rank), 10)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_Stream(self.by_rank), 10)


def halving(optimizer: torch.optim.Optimizer, steps_per_epoch: int, factor: float = 0.5) -> dict[str, object]:
    """A function as `scheduler`."""
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, steps_per_epoch, factor)
    return {"scheduler": schedule, "interval": "step"}


def adam(params: list[dict[str, object]], lr: float = 1e-3) -> torch.optim.Optimizer:
    """A function as `optimizer`, with a weight decay of its own."""
    return torch.optim.AdamW(params, lr, weight_decay=0.125)


def smooth_loss(amount: float = 0.1) -> nn.Module:
    """A function as `task.loss`."""
    return nn.CrossEntropyLoss(label_smoothing=amount)


class WithCheckpoints(Classifier):
    """Keeps checkpoints of its own."""

    def configure_callbacks(self) -> list[pl.Callback]:
        how = {"save_top_k": 2, "filename": "low-{step}", "save_on_train_epoch_end": True}
        return [pl.callbacks.ModelCheckpoint(monitor="train_loss", **how)]


class WritesToMLflow(Classifier):
    """Logs by MLflow's own functions, on rank 0, in the module's hooks; `autolog`: turns autologging on."""

    def __init__(self, autolog: bool = False) -> None:
        super().__init__()
        if autolog:
            mlflow.autolog(log_models=False)

    @rank_zero_only
    def setup(self, stage) -> None:
        mlflow.set_tag(f"at.{stage.value}", "here")

    @rank_zero_only
    def on_train_start(self) -> None:
        mlflow.log_param("mine", 3)
        mlflow.log_metric("my/metric", 0.5, step=2)
        mlflow.log_text("hello", "mine/hello.txt")
        self.logger.experiment.log_param(self.logger.run_id, "by_experiment", 4)


class NoSamples(Points):
    """`stream`: of unknown length."""

    def __init__(self, stream: bool = False) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Nothing() if self.stream else [], 10)


class _Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


class NotValidated(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.randn(20, 4), torch.zeros(20).long()), 10)


class TwoValidationLoaders(Points):
    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(part, self.hparams["batch_size"]) for part in self.parts[1:]]


class ValidatedTwice(Classifier):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class TwoTestLoaders(Points):
    def test_dataloader(self) -> list[DataLoader]:
        return [super().test_dataloader()] * 2


class TestedLater(TwoTestLoaders):
    """The loaders of the test exist only after its setup."""

    __test__ = False

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.tested = stage == "test"

    def test_dataloader(self) -> list[DataLoader]:
        if not self.tested:
            raise RuntimeError("not set up")
        return super().test_dataloader()


class TakesTestIndex(Classifier):
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)
