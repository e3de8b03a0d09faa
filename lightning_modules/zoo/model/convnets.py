"""Convolutional networks for images: a plain one, LeNet-5, the 2c2d of DeepOBS, and ResNets without an ImageNet stem.

ResNets: He et al. 2016, "Deep Residual Learning for Image Recognition". Longer than 200 lines: three papers and a plain one.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import image_shape


class ConvNet(nn.Module):
    """Stages of `depth` convolutions ('same' padding, batch norm, ReLU), each ended by a 2x2 max-pool.

    `channels` has one width per stage. Without `hidden` the maps are averaged before the linear head; with it they are
    flattened into a fully connected layer of that width: `channels=[32, 64] depth=1 batch_norm=false hidden=128` is the
    usual MNIST CNN. Raises UserError for images that are too small for the pooling.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[int] = (32, 64),
        depth: int = 2,
        kernel_size: int = 3,
        batch_norm: bool = True,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not channels:
            raise UserError("model.channels is empty: expected one width per stage, as in model.channels=[32,64]")
        width, *size = image_shape("convnet", input_shape, smallest=2 ** len(channels))
        stages: list[nn.Module] = []
        for out in channels:
            for _ in range(depth):
                stages += _convolution(width, out, kernel_size, batch_norm)
                width = out
            stages.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*stages)
        if hidden is None:
            self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        else:
            width *= (size[0] >> len(channels)) * (size[1] >> len(channels))
            self.neck = nn.Sequential(nn.Flatten(), nn.Linear(width, hidden), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden or width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.neck(self.features(images))))


def _convolution(inputs: int, outputs: int, kernel_size: int, batch_norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding="same", bias=not batch_norm)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [conv, nn.ReLU()]


class LeNet5(nn.Module):
    """The Caffe variant of LeNet-5 (Han et al. 2016, table 3): conv5-20, pool, conv5-50, pool, FC 500, head.

    As in Caffe's prototxt there is no padding, and the only ReLU follows the first fully connected layer.
    431,080 parameters on 1x28x28 with 10 classes. Raises UserError for images smaller than 16x16.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        channels, height, width = image_shape("lenet5", input_shape, smallest=16)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))  # after two convolutions and pools
        self.fc = nn.Linear(50 * rows * columns, 500)
        self.relu = nn.ReLU()
        self.head = nn.Linear(500, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.fc(self.features(images).flatten(1))))


class TwoConv(nn.Module):
    """conv5-32, pool, conv5-64, pool, FC 1024, head; ReLU, 'same' padding, 2x2 max-pooling in ceil mode.

    DeepOBS' 2c2d (Schneider et al., ICLR 2019) has `std` = `bias` = 0.05, the network of Agarap 2017 0.1 and a dropout
    of 0.5 before the head. 3,274,634 parameters on 1x28x28 with 10 classes.

    Args:
        std: of the initial weights, from a normal distribution truncated at two standard deviations.
        bias: initial value of all biases.
        dropout: before the head.
        channels_last: compute the convolutions in that memory format; equal results up to rounding.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        std: float = 0.05,
        bias: float = 0.05,
        dropout: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape("two_conv", input_shape, smallest=4)
        # pooling before ReLU gives the same result with a quarter of the work for ReLU
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding="same"), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding="same"), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(),
        )  # fmt: skip
        self.neck = nn.Sequential(
            nn.Linear(64 * -(-height // 4) * -(-width // 4), 1024), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(1024, num_outputs)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(values, bias)
            else:
                nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std)
        self.features.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images.contiguous(memory_format=self.memory_format))
        return self.head(self.neck(maps.flatten(1)))


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


class _TwoConvolutions(nn.Module):
    """Two 3x3 convolutions with batch norm, added to what the block skips."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(h + self.skip(x))

    @abstractmethod
    def skip(self, x: Tensor) -> Tensor:
        """The input in the shape of the output."""


class BasicBlock(_TwoConvolutions):
    """If the width doubles, the stride is 2, and the shortcut takes every other pixel and pads the new channels with zeros
    (option A: no parameters).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, stride=1 if inputs == outputs else 2)
        self.new_channels = outputs - inputs

    def skip(self, x: Tensor) -> Tensor:
        if not self.new_channels:
            return x
        front = self.new_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, self.new_channels - front))


class ProjectionBlock(_TwoConvolutions):
    """The shortcut is the identity, or a 1x1 convolution with batch norm if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, stride)
        same = stride == 1 and inputs == outputs
        convolution = [] if same else [_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*convolution) if convolution else nn.Identity()

    def skip(self, x: Tensor) -> Tensor:
        return self.shortcut(x)


class BasicResNet(nn.Module):
    """A 3x3 stem without pooling, then stages of basic blocks; every stage but the first halves the image size.

    ``widths=[64, 128, 256, 512] blocks=2`` is the ResNet-18 of CIFAR papers (11.17M parameters on 3x32x32 with 10
    classes); ``widths=[16, 32, 64]`` with ``blocks=3`` or ``9`` is the ResNet-20 or -56 of RepDistiller, which differs
    from `CifarResNet` in its shortcuts.

    Args:
        widths: channels of each stage.
        blocks: in each stage.

    He initialisation (fan out). Raises UserError without stages, and for images that are too small.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Count = 2,
    ) -> None:
        super().__init__()
        if not widths:
            raise UserError("model.widths is empty: expected one width per stage, as in model.widths=[16,32,64]")
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


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
