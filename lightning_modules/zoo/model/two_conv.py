"""Two convolutions and two linear layers: the small image network of DeepOBS and many tutorials."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.model.shape import image_shape


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
