"""What a stage works on, made by hand: no run and no data."""

from pathlib import Path

import torch
from torch import nn

from lightning_modules.compression.form import Form
from lightning_modules.compression.stage import Work
from lightning_modules.task.classification import Classification


def work_on(network: nn.Module, shape: tuple[int, ...], folder: Path, logged: dict[str, float] | None = None) -> Work:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, *shape, generator=generator), torch.arange(8)
    task = Classification(network, nn.CrossEntropyLoss(), num_outputs=10)
    log = ({} if logged is None else logged).update
    return Work(task, Form(), x, lambda: iter([{"x": x, "y": y}]), lambda _: 0.0, True, 0, folder, log)
