"""Networks for series: the baselines of Wang, Yan and Oates 2017 (section II), of MNIST-1D and of sonar returns.

The baselines are as in Fawaz et al. 2019 (hfawaz/dl-4-tsc, classifiers/{fcn,resnet,mlp}.py), with Keras' defaults:
Glorot-uniform weights, batch norm with momentum 0.99 (0.01 in torch) and eps 1e-3, and 'same' padding, which for an even
kernel pads one more position on the right. The networks of MNIST-1D are those of Greydanus and Kobak, ICML 2024
(greydanus/mnist1d, notebooks/models.py).
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.model.shape import series_shape


def init_glorot_uniform(network: nn.Module) -> None:
    """Weights of linear and convolution layers as in Glorot and Bengio 2010, equation 16; biases zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


_KERNELS = (8, 5, 3)
_batch_norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


class _MeanOverTime(nn.Module):
    """A linear head on the mean over time of `features`."""

    def __init__(self, shape: tuple[int, int], features: nn.Module, width: int, num_outputs: int) -> None:
        super().__init__()
        self.series = (-1, *shape)
        self.features = features
        self.head = nn.Linear(width, num_outputs)
        init_glorot_uniform(self)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series.reshape(self.series)).mean(-1))


class TimeSeriesFCN(_MeanOverTime):
    """Convolutions of `channels` filters and kernels 8, 5, 3, each with batch norm and ReLU; mean over time; linear head.

    Input: series [B, L] or [B, C, L]. 264,962 parameters for one dimension and two classes.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (128, 256, 128)) -> None:
        shape = series_shape("series_fcn", input_shape)
        super().__init__(shape, _convolutions([shape[0], *channels], last_relu=True), channels[-1], num_outputs)


class TimeSeriesResNet(_MeanOverTime):
    """Three residual blocks of `channels` filters, each of convolutions with kernels 8, 5, 3; mean over time; linear head.

    The shortcut is a batch norm, after a convolution of kernel 1 if the number of channels changes. Input: series [B, L]
    or [B, C, L]. 504,258 parameters for one dimension and two classes.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (64, 128, 128)) -> None:
        shape = series_shape("series_resnet", input_shape)
        blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise([shape[0], *channels])))
        super().__init__(shape, blocks, channels[-1], num_outputs)


class _Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = _convolutions([channels, width, width, width], last_relu=False)
        widen = [nn.Conv1d(channels, width, 1)] if channels != width else []
        self.shortcut = nn.Sequential(*widen, _batch_norm(width))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.residual(x))


def _convolutions(widths: Sequence[int], last_relu: bool) -> nn.Sequential:
    """Convolution, batch norm and ReLU for each of the kernels; no ReLU after the last one unless `last_relu`."""
    layers: list[nn.Module] = []
    for (a, b), kernel in zip(pairwise(widths), _KERNELS, strict=True):
        if kernel % 2 == 0:
            layers.append(nn.ConstantPad1d((kernel // 2 - 1, kernel // 2), 0.0))
        layers += [nn.Conv1d(a, b, kernel, padding=0 if kernel % 2 == 0 else kernel // 2), _batch_norm(b), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


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


class MNIST1DCNN(nn.Module):
    """Three strided convolutions (kernels 5, 3, 3; stride 2; padding 1) with ReLU, then a linear head.

    5,210 parameters for 40 positions, 25 channels and 10 classes. Raises UserError for series of
    fewer than 3 positions.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, hidden_channels: int = 25) -> None:
        super().__init__()
        channels, length = shape = series_shape("mnist1d_cnn", input_shape)
        if length < 3:
            raise UserError(f"model=mnist1d_cnn needs at least 3 positions, the data gives {length}")
        layers: list[nn.Module] = []
        for kernel_size in (5, 3, 3):
            layers += [nn.Conv1d(channels, hidden_channels, kernel_size, stride=2, padding=1), nn.ReLU()]
            channels, length = hidden_channels, (length + 2 - kernel_size) // 2 + 1
        self.series = (-1, *shape)
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels * length, num_outputs)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series.reshape(self.series)).flatten(1))


class MNIST1DGRU(nn.Module):
    """One GRU layer; the states of all steps, flattened, feed the linear head.

    5,134 parameters for 40 positions, 6 hidden units and 10 classes.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden_size: int = 6,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        channels, length = series_shape("mnist1d_gru", input_shape)
        self.series = (-1, channels, length)
        self.gru = nn.GRU(channels, hidden_size, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(length * hidden_size * (2 if bidirectional else 1), num_outputs)

    def forward(self, series: Tensor) -> Tensor:
        states, _ = self.gru(series.reshape(self.series).transpose(1, 2))
        return self.head(states.flatten(1))


class UniformMLP(MLP):
    """An `MLP` whose weights and biases are initialised in U(-bound, bound), independent of the layer width.

    Gorman and Sejnowski 1988: sigmoid units, bound 0.3, and 0 to 24 hidden units.
    """

    def __init__(self, bound: float = 0.3, **settings: Any) -> None:
        super().__init__(**settings)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
