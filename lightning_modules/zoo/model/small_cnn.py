"""Two small convolutional networks for images: LeNet-5 and the 2c2d of DeepOBS."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.model.shape import image_shape


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
        self.fc = nn.Linear(50 * _pooled_size(height) * _pooled_size(width), 500)
        self.relu = nn.ReLU()
        self.head = nn.Linear(500, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.fc(self.features(images).flatten(1))))


def _pooled_size(size: int) -> int:
    """The side length after two rounds of a 5x5 convolution and 2x2 pooling."""
    return ((size - 4) // 2 - 4) // 2


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
