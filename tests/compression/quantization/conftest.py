"""Networks that have learnt scikit-learn's digits for a second, and what a stage works on."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.model.mlp import MLP
from lightning_modules.task.classification import Classification
from lightning_modules.zoo.model.convnets import CifarResNet, ConvNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

SHAPES = {
    "mlp": (1, 8, 8),
    "lenet5": (1, 16, 16),
    "resnet": (1, 8, 8),
    "vit": (1, 8, 8),
    "gru": (8, 8),
    "convnet": (1, 8, 8),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    shape = SHAPES[name]
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(shape, 10, hidden=[32, 32], dropout=0.1),
        "lenet5": lambda: LeNet5(shape, 10),
        "resnet": lambda: CifarResNet(shape, 10, depth=8),
        "convnet": lambda: ConvNet(shape, 10, channels=[16], depth=1, hidden=32),
        "vit": lambda: ViT(shape, 10, patch_size=4, dim=32, depth=1, heads=2),
        "gru": lambda: MNIST1DGRU(shape, 10, hidden_size=16),
    }
    return makers[name]()


@dataclass
class Learnt:
    """A trained network and its data, standardised: training [1500, …] and validation [297, …]."""

    model: nn.Module
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float((model(self.val[0]).argmax(1) == self.val[1]).float().mean())


def learn(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int = 4, after_step: Any = None) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data[0])).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(data[0][batch]), data[1][batch]).backward()
            optimizer.step()
            if after_step is not None:
                after_step()


@pytest.fixture(scope="session")
def learnt() -> Callable[[str], Learnt]:
    made: dict[str, Learnt] = {}

    def get(name: str) -> Learnt:
        if name not in made:
            model = build(name)
            digits = load_digits()
            x = torch.tensor(digits.images, dtype=torch.float32).div(8).sub(1).unsqueeze(1)
            x = F.interpolate(x, size=SHAPES[name][-2:]).view(-1, *SHAPES[name])
            y = torch.tensor(digits.target)
            made[name] = Learnt(model, (x[:1500], y[:1500]), (x[1500:], y[1500:]))
            learn(model, made[name].train)
        found = made[name]
        return Learnt(deepcopy(found.model), found.train, found.val)

    return get


@dataclass
class Bench:
    """A stage's work on a learnt network, and what it logged."""

    data: Learnt
    context: StageContext
    logged: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.context.model

    def run(self, stage: Stage, check: bool = True) -> None:
        """Check, begin and end a stage without a fit."""
        stage.name = stage.name or "tested"
        if check:
            stage.check(self.context.model, self.context.preprocess(self.context.example), 10)
        stage.begin(self.context)
        stage.end(self.context)

    def accuracy(self) -> float:
        return self.data.accuracy(self.context.model)


@pytest.fixture
def bench(learnt: Callable[[str], Learnt], tmp_path: Path) -> Callable[[str], Bench]:
    def make(name: str) -> Bench:
        data = learnt(name)
        x, y = data.train

        def batches() -> Iterator[dict[str, Tensor]]:
            for start in range(0, len(x), 50):
                yield {"x": x[start : start + 50], "y": y[start : start + 50], "index": torch.arange(start, start + 50)}

        task = Classification(data.model, nn.CrossEntropyLoss(), num_outputs=10)
        logged: dict[str, float] = {}
        context = StageContext(
            task=task, state=CompressedState(), example=x[:4], batches=batches, evaluate=data.accuracy, higher_is_better=True,
            seed=0, folder=tmp_path / "pictures", log=logged.update,
        )  # fmt: skip
        return Bench(data, context, logged)

    return make
