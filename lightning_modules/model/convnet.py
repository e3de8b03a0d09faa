"""The plain convolutional network, small enough for 8x8 digits on one core."""

from collections.abc import Sequence

from torch import Tensor, nn

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
