"""Systems that are no classifiers, as their authors write them: dict batches, lists of dicts, several inputs and heads."""

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
    """torchvision's Faster R-CNN, whose loss is a dict."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

        self.network = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=2, min_size=48, max_size=64
        )

    def training_step(self, batch, batch_idx: int) -> Tensor:
        losses = self.network(list(batch[0]), list(batch[1]))
        self.log_dict({f"train_{name}": loss for name, loss in losses.items()}, batch_size=len(batch[0]))
        return sum(losses.values())

    def validation_step(self, batch, batch_idx: int) -> None:
        found = self.network(list(batch[0]))
        self.log("val_boxes", float(sum(len(one["boxes"]) for one in found)), batch_size=len(found))

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

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.heads = nn.ModuleDict({"sum": nn.Linear(8, 1), "larger": nn.Linear(8, 2)})

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
