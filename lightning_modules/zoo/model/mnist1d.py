"""The networks of MNIST-1D (Greydanus and Kobak, ICML 2024; greydanus/mnist1d, notebooks/models.py)."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import series_shape


class MNIST1DCNN(nn.Module):
    """Three strided convolutions (kernels 5, 3, 3; stride 2; padding 1) with ReLU, then a linear head.

    5,210 parameters for 40 positions, 25 channels and 10 classes. Raises UserError for samples other than series [L] or
    [C, L] of at least 3 positions.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, hidden_channels: int = 25) -> None:
        super().__init__()
        channels, length = series_shape("mnist1d_cnn", input_shape)
        if length < 3:
            raise UserError(f"model=mnist1d_cnn needs at least 3 positions, the data gives {length}")
        layers: list[nn.Module] = []
        for kernel_size in (5, 3, 3):
            layers += [nn.Conv1d(channels, hidden_channels, kernel_size, stride=2, padding=1), nn.ReLU()]
            channels, length = hidden_channels, (length + 2 - kernel_size) // 2 + 1
        self.series = (-1, *series_shape("mnist1d_cnn", input_shape))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels * length, num_outputs)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.features(series.reshape(self.series)).flatten(1))


class MNIST1DGRU(nn.Module):
    """One GRU layer; the states of all steps, flattened, feed the linear head.

    5,134 parameters for 40 positions, 6 hidden units and 10 classes. Raises UserError for samples other than series [L]
    or [C, L].
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
