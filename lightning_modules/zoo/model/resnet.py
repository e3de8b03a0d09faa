"""ResNets for small images (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import image_shape


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with n = (depth - 2) / 6 blocks each; shortcuts of option A; He init.

    Parameters on 3x32x32 with 10 classes: 0.27M at depth 20, 0.85M at 56, 1.73M at 110. Raises UserError for a depth
    that is not 6n + 2, and for images smaller than 4x4.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, depth: int = 20) -> None:
        super().__init__()
        channels, _, _ = image_shape("resnet", input_shape, smallest=4)
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"model.depth={depth}: expected 6n + 2, as in 20, 32, 44, 56, 110")
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                blocks.append(BasicBlock(inputs, outputs))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. If the width doubles, the first has stride 2, and the shortcut takes every other pixel and pads
    the new channels with zeros (option A: no parameters).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.new_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if self.new_channels else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.new_channels:
            front = self.new_channels // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, self.new_channels - front))
        return self.relu(h + x)


class BasicResNet(nn.Module):
    """A 3x3 stem without pooling, then stages of basic blocks; every stage but the first halves the image size.

    ``widths=[64, 128, 256, 512] blocks=2`` is the ResNet-18 of CIFAR papers (11.17M parameters on 3x32x32 with 10
    classes); ``widths=[16, 32, 64]`` with ``blocks=3`` or ``9`` is the ResNet-20 or -56 of RepDistiller, which differs
    from `CifarResNet` in its shortcuts.

    Args:
        widths: channels of each stage.
        blocks: in each stage.

    He initialisation (fan out). Raises UserError without stages or blocks, and for images that are too small.
    """

    def __init__(
        self, input_shape: Sequence[int], num_outputs: int, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 2
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise UserError(
                f"model.widths={list(widths)}, model.blocks={blocks}: expected at least one stage of one block"
            )
        channels, _, _ = image_shape("basic_resnet", input_shape, smallest=2 ** (len(widths) - 1))
        self.stem = nn.Sequential(_conv(channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise([widths[0], *widths])):
            stages.append(ProjectionBlock(inputs, outputs, stride=2 if number else 1))
            stages += [ProjectionBlock(outputs, outputs) for _ in range(blocks - 1)]
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class ProjectionBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut, or a 1x1 convolution with batch norm if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(h + self.shortcut(x))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
