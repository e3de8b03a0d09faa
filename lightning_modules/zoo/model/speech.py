"""A small network for speech recognition with CTC."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError

NEVER = -1e4  # log-probability of symbols behind a recording


class SpeechGRU(nn.Module):
    """Two convolutions over time, bidirectional GRU layers and a linear head: a small Deep Speech 2 (Amodei et al. 2016).

    Padding has no effect: it is zero for the convolutions, the backward direction begins at each recording's last frame,
    and normalization (layer norm) is by frame. Behind a recording the blank has the log-probability 0, all others -10,000.

    Input: features [B, n_mels + 1, F], whose last row is 1 in frames of the recording and 0 behind it. Output:
    log-probabilities [B, ceil(F / stride), num_outputs] of CTC's symbols.

    Args:
        num_outputs: symbols with the blank, which is 0.
        n_mels: bands of the features.
        channels: of the convolutions.
        hidden_size: of each direction of a GRU layer.
        stride: frames that become one.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        n_mels: int | None = None,
        channels: Count = 64,
        hidden_size: Count = 96,
        num_layers: Count = 2,
        stride: Count = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if n_mels is None or len(input_shape) != 1:
            raise UserError(
                "model=speech_gru needs recordings with transcripts (data=digit_strings or transcribed_audio), got samples "
                f"of shape {tuple(input_shape)}"
            )
        self.stride = stride
        self.convs = nn.ModuleList(
            [nn.Conv1d(n_mels, channels, 5, padding=2), nn.Conv1d(channels, channels, 5, stride, padding=2)]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in self.convs)
        sizes = [channels] + [2 * hidden_size] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(nn.GRU(size, hidden_size, batch_first=True) for size in sizes)
        self.backward_layers = nn.ModuleList(nn.GRU(size, hidden_size, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden_size, num_outputs)

    def output_frames(self, frames: int) -> int:
        """Frames of the output for so many frames of features."""
        return -(-frames // self.stride)

    def forward(self, features: Tensor) -> Tensor:
        x, inside = features[:, :-1], features[:, -1:]
        for conv, norm, stride in zip(self.convs, self.norms, (1, self.stride), strict=True):
            inside = inside[..., ::stride]
            x = torch.relu(norm(conv(x).transpose(1, 2))).transpose(1, 2) * inside
        x, inside = x.transpose(1, 2), inside.transpose(1, 2)  # [B, F, C] and [B, F, 1]
        place = torch.arange(x.shape[1], device=x.device)[None]
        frames = (inside[..., 0] > 0).sum(1, keepdim=True)
        mirrored = torch.where(place < frames, frames - 1 - place, place)[..., None]  # the frame at which each is read
        for ahead, back in zip(self.forward_layers, self.backward_layers, strict=True):
            x = self.dropout(x)
            reversed_states = back(x.gather(1, mirrored.expand(-1, -1, x.shape[2])))[0]
            x = torch.cat(
                [ahead(x)[0], reversed_states.gather(1, mirrored.expand(-1, -1, reversed_states.shape[2]))], 2
            )
        scores = self.head(self.dropout(x)).float().log_softmax(2)
        blank = torch.arange(scores.shape[2], device=x.device) == 0
        return torch.where(inside > 0, scores, torch.where(blank, 0.0, NEVER))
