"""Small networks for log-mel features of speech."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

MAX_BLOCKS = 4  # each block halves both sides of the spectrum of one second


class AudioCNN(nn.Module):
    """Blocks of a 3x3 convolution, batch norm, ReLU and 2x2 max pooling; mean over time and bands; linear head.

    Input: features [B, 1, n_mels, frames]. 25,154 parameters with the default `channels` and ten classes.

    Args:
        channels: of each block; at most four.
        dropout: before the head.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[int] = (8, 16, 32, 64),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if len(input_shape) not in (1, 3) or (len(input_shape) == 3 and input_shape[0] != 1):
            raise UserError(
                "model=audio_cnn needs recordings [T] or features [1, n_mels, frames], got samples of shape "
                f"{tuple(input_shape)}"
            )
        if not 1 <= len(channels) <= MAX_BLOCKS:
            raise UserError(f"model.channels={list(channels)}: expected 1 to {MAX_BLOCKS} widths")
        layers: list[nn.Module] = []
        for before, after in zip([1, *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(features).mean((2, 3))))


class AudioGRU(nn.Module):
    """A bidirectional GRU over the frames; mean of its states over time; linear head.

    Input: features [B, 1, n_mels, frames], or series [B, L] or [B, C, L], each position of which is a frame.
    60,170 parameters for 40 bands, one layer of 80 and ten classes.

    Args:
        n_mels: bands of the features; null: taken from a series' `input_shape`.
        hidden_size: of each direction.
        dropout: of the frames, and before the head.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        n_mels: int | None = None,
        hidden_size: int = 80,
        num_layers: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if n_mels is None and len(input_shape) == 2:
            n_mels = int(input_shape[0])
        elif n_mels is None:
            raise UserError(f"model.n_mels: cannot be inferred from samples of shape {tuple(input_shape)}; set it")
        self.n_mels = n_mels
        self.dropout = nn.Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0
        self.gru = nn.GRU(n_mels, hidden_size, num_layers, batch_first=True, bidirectional=True, dropout=between)
        self.head = nn.Linear(2 * hidden_size, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        frames = features.reshape(len(features), self.n_mels, -1).transpose(1, 2)
        states, _ = self.gru(self.dropout(frames))
        return self.head(self.dropout(torch.mean(states, 1)))
