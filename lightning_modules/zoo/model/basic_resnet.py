"""ResNets of basic blocks for small images, with projection shortcuts (He et al. 2016, option B)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import image_shape


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
