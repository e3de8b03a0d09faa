"""The convolutional baselines of time series classification (Wang, Yan and Oates 2017, sections II-B and II-C).

As in Fawaz et al. 2019 (hfawaz/dl-4-tsc, classifiers/{fcn,resnet}.py), with Keras' defaults: Glorot-uniform weights,
batch norm with momentum 0.99 (0.01 in torch) and eps 1e-3, and 'same' padding, which for an even kernel pads one more
position on the right.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_modules.model.shape import series_shape
from lightning_modules.zoo.model.initialization import init_glorot_uniform

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
