"""Systems that are no classifiers, as their authors write them: dict batches, lists of dicts, several inputs and heads."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class _Samples(Dataset):
    """`make(generator)` for each index; map-style, in memory."""

    def __init__(self, make, count: int) -> None:
        source = torch.Generator().manual_seed(0)
        self.samples = [make(source) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        return self.samples[index]


class _Data(pl.LightningDataModule):
    count, batch_size, collate = 24, 8, None

    def setup(self, stage: str) -> None:
        self.samples = _Samples(self.make, self.count)

    def _loader(self, shuffle: bool = False) -> DataLoader:
        return DataLoader(self.samples, self.batch_size, shuffle=shuffle, collate_fn=self.collate)

    def train_dataloader(self) -> DataLoader:
        return self._loader(shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader()


class Reversal(_Data):
    """Dict batches: a sequence of tokens and its reversal."""

    @staticmethod
    def make(source: torch.Generator) -> dict[str, Tensor]:
        tokens = torch.randint(2, 10, (6,), generator=source)
        return {"source": tokens, "target": tokens.flip(0)}


class Translator(pl.LightningModule):
    """An encoder-decoder Transformer on dict batches, with a schedule by step."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embed = nn.Embedding(10, width)
        self.body = nn.Transformer(width, 2, 1, 1, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, 10)

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        shifted = torch.cat([torch.ones_like(batch["target"][:, :1]), batch["target"][:, :-1]], 1)
        mask = nn.Transformer.generate_square_subsequent_mask(shifted.shape[1])
        hidden = self.body(self.embed(batch["source"]), self.embed(shifted), tgt_mask=mask, tgt_is_causal=True)
        return nn.functional.cross_entropy(self.head(hidden).transpose(1, 2), batch["target"], label_smoothing=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Boxes(_Data):
    """Lists of images of different sizes, and of dicts with their boxes."""

    count, batch_size = 4, 2
    collate = staticmethod(lambda samples: tuple(zip(*samples, strict=True)))

    @staticmethod
    def make(source: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        width = int(torch.randint(40, 56, (), generator=source))
        image = torch.rand(3, 48, width, generator=source)
        corner = torch.randint(0, 20, (1, 2), generator=source).float()
        return image, {"boxes": torch.cat([corner, corner + 16], 1), "labels": torch.ones(1, dtype=torch.long)}


class Detector(pl.LightningModule):
    """torchvision's Faster R-CNN on a small backbone; its loss is a dict."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        from torchvision.models.detection import FasterRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.faster_rcnn import TwoMLPHead

        backbone = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        backbone.out_channels = width
        anchors = AnchorGenerator(((16, 32),), ((1.0,),))
        head = TwoMLPHead(width * 7**2, 1024)
        sizes = {"min_size": 48, "max_size": 64}
        self.network = FasterRCNN(backbone, 2, **sizes, rpn_anchor_generator=anchors, box_head=head)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        losses = self.network(list(batch[0]), list(batch[1]))
        self.log_dict({f"train_{name}": loss for name, loss in losses.items()}, batch_size=len(batch[0]))
        return sum(losses.values())

    def validation_step(self, batch, batch_idx: int) -> None:
        found = self.network(list(batch[0]))
        self.log("val_boxes", float(sum(len(one["boxes"]) for one in found)), batch_size=len(found), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 1e-3)


class Pairs(_Data):
    """Two inputs and two targets."""

    @staticmethod
    def make(source: torch.Generator) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        left, right = torch.randn(2, 4, generator=source)
        return (left, right), {"sum": (left + right).sum(), "larger": (left.sum() > right.sum()).long()}


class TwoHeads(pl.LightningModule):
    """Two inputs; two heads, whose outputs are a dict."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Linear(8, width)
        self.heads = nn.ModuleDict({"sum": nn.Linear(width, 1), "larger": nn.Linear(width, 2)})

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        hidden = self.body(torch.cat([left, right], 1)).relu()
        return {name: head(hidden) for name, head in self.heads.items()}

    def _loss(self, batch) -> Tensor:
        outputs = self(*batch[0])
        squared = nn.functional.mse_loss(outputs["sum"][:, 0], batch[1]["sum"])
        return squared + nn.functional.cross_entropy(outputs["larger"], batch[1]["larger"])

    def training_step(self, batch, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self._loss(batch)}

    def validation_step(self, batch, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0][0]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


class Memmap(pl.LightningDataModule):
    """Rows of a file that are read as they are needed; it is written once."""

    def __init__(self, file: str, batch_size: int = 8) -> None:
        super().__init__()
        self.file, self.batch_size = Path(file), batch_size

    def prepare_data(self) -> None:
        if not self.file.exists():
            rows = np.memmap(self.file, np.float32, "w+", shape=(32, 5))
            rows[:] = np.random.default_rng(0).normal(size=rows.shape)
            rows.flush()

    def setup(self, stage: str) -> None:
        self.rows = np.memmap(self.file, np.float32, "r").reshape(-1, 5)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, self.batch_size)


class RowModel(pl.LightningModule):
    """The last column of a row from the others."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.layers(batch[:, :4]), batch[:, 4:])

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=2)


class Discs(_Data):
    """Images of a disc, and where it is."""

    count = 16

    def test_dataloader(self) -> DataLoader:
        return self._loader()

    @staticmethod
    def make(source: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.randint(4, 12, (2,), generator=source)
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        disc = ((rows - y) ** 2 + (columns - x) ** 2 < 12).float()[None]
        return disc + 0.1 * torch.randn(1, 16, 16, generator=source), disc


class DCGAN(pl.LightningModule):
    """Two optimizers, each with a schedule, and manual optimization; no validation."""

    def __init__(self, width: int = 8, latent: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(latent, width, 4), nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 4),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        real, optimizers = batch[0], self.optimizers()
        fake = self.generator(torch.randn(len(real), self.hparams["latent"], 1, 1, device=self.device))
        judged, kept = self.discriminator(fake.detach()), self.discriminator(real)
        losses = {"discriminator": (nn.functional.softplus(judged) + nn.functional.softplus(-kept)).mean()}
        self._step(optimizers[1], losses["discriminator"])
        losses["generator"] = nn.functional.softplus(-self.discriminator(fake)).mean()
        self._step(optimizers[0], losses["generator"])
        self.log_dict({f"{name}_loss": loss for name, loss in losses.items()}, on_step=False, on_epoch=True)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def on_train_epoch_end(self) -> None:
        for schedule in self.lr_schedulers():
            schedule.step()

    def configure_optimizers(self):
        parts = (self.generator, self.discriminator)
        optimizers = [torch.optim.Adam(part.parameters(), 2e-3, betas=(0.5, 0.999)) for part in parts]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


class UNet(nn.Module):
    """A mask of the size of the image, over a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.down(x).relu()
        inner = self.inner(nn.functional.max_pool2d(outer, 2)).relu()
        return self.head(torch.cat([outer, self.up(inner)], 1))


class Segmenter(pl.LightningModule):
    """A U-Net, with a schedule that watches the validation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = UNet(width)
        self.example_input_array = torch.zeros(2, 1, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        found = self(batch[0]) > 0
        overlap = (found & (batch[1] > 0)).sum() / (found | (batch[1] > 0)).sum().clamp(min=1)
        self.log_dict({"val_loss": self.training_step(batch, batch_idx), "val_iou": overlap}, sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Views(Discs):
    """Two random views of each image, drawn as it is read."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.collate = lambda samples: tuple(torch.stack([_view(image) for image, _ in samples]) for _ in range(2))


def _view(image: Tensor) -> Tensor:
    shift = torch.randint(-2, 3, (2,)).tolist()
    return torch.roll(image, shift, (1, 2)) + 0.1 * torch.randn_like(image)


class SimCLR(pl.LightningModule):
    """Contrastive learning: the other view of the same image among all views of the batch."""

    def __init__(self, width: int = 8, temperature: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(width * 49, 16))
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        z = nn.functional.normalize(self.projection(self(torch.cat(batch))), dim=1)
        similar = (z @ z.T / self.hparams["temperature"]).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        return nn.functional.cross_entropy(similar, torch.arange(len(z)).roll(len(z) // 2))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Sentences(_Data):
    """Token ids with their mask and label, as transformers' models take them."""

    @staticmethod
    def make(source: torch.Generator) -> dict[str, Tensor]:
        tokens = torch.randint(0, 32, (8,), generator=source)
        mask = torch.arange(8) < torch.randint(4, 9, (), generator=source)
        return {"input_ids": tokens, "attention_mask": mask.long(), "labels": (tokens[0] > 15).long()}


class Bert(pl.LightningModule):
    """transformers' BERT from a config, which counts the loss itself."""

    def __init__(self, width: int = 8, layers: int = 1) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
        self.save_hyperparameters()
        self.model = BertForSequenceClassification(BertConfig(vocab_size=32, num_attention_heads=2, **sizes))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.model(**batch).loss, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Labelled(Discs):
    """Images of discs, and in which quarter each is."""

    @staticmethod
    def make(source: torch.Generator) -> tuple[Tensor, Tensor]:
        image, disc = Discs.make(source)
        return image, disc.reshape(2, 8, 2, 8).sum((1, 3)).argmax()


class Features(nn.Module):
    """A backbone for the modules of other packages: 16 features of an image, or `outputs` of a head."""

    def __init__(self, width: int = 8, outputs: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(width * 49, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Wrapper(TwoHeads):
    """Takes a network and an optimizer as arguments."""

    def __init__(self, model: nn.Module, optimizer: object = None) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer
