"""Networks and what a stage works on, made by hand: no run and no data."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import StageContext
from lightning_modules.task.classification import Classification


def work_on(
    network: nn.Module, shape: tuple[int, ...], folder: Path, logged: dict[str, float] | None = None
) -> StageContext:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, *shape, generator=generator), torch.arange(8)
    task = Classification(network, nn.CrossEntropyLoss(), num_outputs=10)
    log = ({} if logged is None else logged).update
    return StageContext(
        task, CompressedState(), x, lambda: iter([{"x": x, "y": y}]), lambda _: 0.0, True, 0, folder, log
    )


class SmallNet(nn.Module):
    """Two layers over the pixels of 1x8x8 images."""

    def __init__(self, width: int, outputs: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x).relu()).flatten(1))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
