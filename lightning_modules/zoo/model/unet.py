"""U-Net (Ronneberger et al. 2015), and torchvision's networks for segmentation."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.model.shape import image_shape
from lightning_modules.zoo.model.pretrained import PretrainedNetwork, build_network, load_weights


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with a batch norm and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for inner in (channels, width):
            layers += [nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    """Images [B, C, H, W] -> logits [B, num_outputs, H, W], for any H and W of at least 2^depth.

    As in the paper, but with batch norm, padded convolutions, and a nearest neighbour before the 3x3 convolution that halves
    the channels on the way up.

    Args:
        input_shape, num_outputs: from the data.
        width: channels at full resolution; they double at each of the `depth` levels below.
    """

    @bounded
    def __init__(self, input_shape: Sequence[int], num_outputs: int, width: Count = 32, depth: Whole = 4) -> None:
        super().__init__()
        channels, *_ = image_shape("unet", input_shape, smallest=2**depth)
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(*pair) for pair in zip([channels, *widths], widths, strict=False))
        pairs = list(pairwise(widths))[::-1]
        self.halve = nn.ModuleList(nn.Conv2d(wide, narrow, 3, padding=1) for narrow, wide in pairs)
        self.up = nn.ModuleList(DoubleConv(2 * narrow, narrow) for narrow, _ in pairs)
        self.head = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for skip, halve, block in zip(skips[-2::-1], self.halve, self.up, strict=True):
            x = halve(F.interpolate(x, size=skip.shape[2:], mode="nearest"))
            x = block(torch.cat([skip, x], 1))
        return self.head(x)


class TorchvisionSegmentation(PretrainedNetwork):
    """`torchvision.models.segmentation.<name>` with `num_outputs` classes, for images of 1 or 3 channels.

    `weights` is None (random) or the path of a state dict, whose head is left out if it has other classes. `arguments` are
    passed to torchvision's builder.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        name: str = "lraspp_mobilenet_v3_large",
        weights: str | None = None,
        freeze_backbone: bool = False,
        **arguments: object,
    ) -> None:
        names = torchvision.models.list_models(module=torchvision.models.segmentation)
        if name not in names:
            raise UserError(f"model.name={name} is not a segmentation network of torchvision: {suggest(name, names)}")
        channels, *_ = image_shape("torchvision_segmentation", input_shape)
        if channels not in (1, 3):
            raise UserError(f"model=torchvision_segmentation needs 1 or 3 channels, the data gives {channels}")
        given = {"weights": None, "weights_backbone": None, "num_classes": num_outputs, **arguments}
        network = build_network(torchvision.models.get_model, name, input_shape, given)
        super().__init__(network, ["classifier"], repeat_gray=channels == 1, freeze_backbone=freeze_backbone)
        if weights:
            load_weights(network, Path(weights).expanduser(), ["classifier", "aux_classifier"])

    def forward(self, images: Tensor) -> Tensor:
        outputs: dict[str, Tensor] = super().forward(images)  # type: ignore[assignment]
        return outputs["out"]
