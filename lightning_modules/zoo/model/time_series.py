"""The baselines of time series classification (Wang, Yan and Oates 2017, section II).

As in Fawaz et al. 2019 (hfawaz/dl-4-tsc, classifiers/{fcn,resnet,mlp}.py), with Keras' defaults: Glorot-uniform weights,
batch norm with momentum 0.99 (0.01 in torch) and eps 1e-3, and 'same' padding, which for an even kernel pads one more
position on the right.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import series_shape


def init_glorot_uniform(network: nn.Module) -> None:
    """Weights of every linear and convolution layer from U(-a, a), a^2 = 6 / (fan_in + fan_out), biases zero.

    Glorot and Bengio 2010, equation 16; Keras' default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_uniform(network: nn.Module, bound: float) -> None:
    """All parameters, including biases, from U(-bound, bound)."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -bound, bound)


KERNELS = (8, 5, 3)


class TimeSeriesFCN(nn.Module):
    """Convolutions of `channels` filters and kernels 8, 5, 3, each with batch norm and ReLU; mean over time; linear head.

    Input: series [B, L] or [B, C, L]. 264,962 parameters for one dimension and two classes.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (128, 256, 128)) -> None:
        super().__init__()
        dimensions, length = series_shape("series_fcn", input_shape)
        self.series = (-1, dimensions, length)
        self.features = _convolutions([dimensions, *channels], last_relu=True)
        self.head = nn.Linear(channels[-1], num_outputs)
        init_glorot_uniform(self)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series.reshape(self.series)).mean(-1))


class TimeSeriesResNet(nn.Module):
    """Three residual blocks of `channels` filters, each of convolutions with kernels 8, 5, 3; mean over time; linear head.

    The shortcut is a batch norm, after a convolution of kernel 1 if the number of channels changes. Input: series [B, L]
    or [B, C, L]. 504,258 parameters for one dimension and two classes.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (64, 128, 128)) -> None:
        super().__init__()
        dimensions, length = series_shape("series_resnet", input_shape)
        self.series = (-1, dimensions, length)
        widths = [dimensions, *channels]
        self.features = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(channels[-1], num_outputs)
        init_glorot_uniform(self)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series.reshape(self.series)).mean(-1))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = _convolutions([channels, width, width, width], last_relu=False)
        widen = [nn.Conv1d(channels, width, 1)] if channels != width else []
        self.shortcut = nn.Sequential(*widen, _norm(width))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.residual(x))


def _convolutions(widths: Sequence[int], last_relu: bool) -> nn.Sequential:
    """Convolution, batch norm and ReLU for each of the kernels; no ReLU after the last one unless `last_relu`."""
    layers: list[nn.Module] = []
    for (a, b), kernel in zip(pairwise(widths), KERNELS, strict=True):
        if kernel % 2 == 0:
            layers.append(nn.ConstantPad1d((kernel // 2 - 1, kernel // 2), 0.0))
        layers += [nn.Conv1d(a, b, kernel, padding=0 if kernel % 2 == 0 else kernel // 2), _norm(b), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


class TimeSeriesMLP(nn.Module):
    """ReLU layers of the widths in `hidden` on the flattened series, with dropout before each layer and the head."""

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (500, 500, 500),
        dropouts: Sequence[float] = (0.1, 0.2, 0.2, 0.3),
    ) -> None:
        super().__init__()
        if len(dropouts) != len(hidden) + 1:
            raise UserError(
                f"model.dropouts={list(dropouts)}: expected {len(hidden) + 1} values, one before each "
                f"of the {len(hidden)} hidden layers and one before the head"
            )
        widths = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b, dropout in zip(widths, hidden, dropouts, strict=False):
            layers += [nn.Dropout(dropout), nn.Linear(a, b), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Dropout(dropouts[-1]))
        self.head = nn.Linear(widths[-1], num_outputs)
        init_glorot_uniform(self)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series))
