"""The text CNN of Kim 2014, "Convolutional Neural Networks for Sentence Classification"."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import text_shape


class MaxNormLinear(nn.Linear):
    """A linear layer whose rows are clipped to an L2 norm of `max_norm` (section 3.1).

    In training the weights are clipped in place before each forward pass; in evaluation a clipped copy is used.
    """

    def __init__(self, in_features: int, out_features: int, max_norm: float | None) -> None:
        super().__init__(in_features, out_features)
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.max_norm is None:
            return super().forward(x)
        with torch.no_grad():
            factor = (self.max_norm / self.weight.norm(dim=1, keepdim=True).clamp(min=1e-7)).clamp(max=1.0)
            if self.training:
                self.weight.mul_(factor)
                factor = torch.ones_like(factor)
        return F.linear(x, self.weight * factor, self.bias)


class KimCNN(nn.Module):
    """Words int [B, L] -> embeddings -> convolutions of several widths -> max over time -> dropout -> head.

    CNN-rand of the paper: embeddings are initialised in U(-0.25, 0.25), that of padding with zero. A text is treated as if
    padded infinitely on both sides: its output does not depend on the rest of the batch, and empty texts are allowed.

    Args:
        vocab_size: number of token ids, taken from the data.
        kernel_sizes: words per window, one for each group of `feature_maps` maps.
        max_norm: of each row of the head; null: no limit.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        vocab_size: int | None = None,
        embedding_dim: int = 300,
        feature_maps: int = 100,
        kernel_sizes: Sequence[int] = (3, 4, 5),
        dropout: float = 0.5,
        max_norm: float | None = 3.0,
    ) -> None:
        super().__init__()
        _, size = text_shape("kim_cnn", input_shape, vocab_size)
        if not kernel_sizes or min(kernel_sizes) < 1:
            raise UserError(f"model.kernel_sizes={list(kernel_sizes)}: expected widths of at least one word")
        self.embedding = nn.Embedding(size, embedding_dim, padding_idx=0)
        nn.init.uniform_(self.embedding.weight, -0.25, 0.25)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding_dim, feature_maps, width) for width in kernel_sizes)
        self.widest = max(kernel_sizes)
        self.sentence = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = MaxNormLinear(feature_maps * len(kernel_sizes), num_outputs, max_norm)

    @property
    def mixing_point(self) -> nn.Module:
        """The vector of a text (senMixup of Guo et al. 2019, "Augmenting Data with Mixup for Sentence Classification")."""
        return self.sentence

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.features(tokens) if tokens.is_cuda or torch.compiler.is_compiling() else self.pack_texts(tokens)
        return self.head(self.dropout(self.sentence(features.relu())))

    def features(self, tokens: Tensor) -> Tensor:
        """The maximum over time of each map, [B, maps], computed on the padded batch."""
        words = self.embedding(F.pad(tokens, (self.widest - 1, self.widest))).transpose(1, 2)
        return torch.cat([convolution(words).amax(2) for convolution in self.convolutions], dim=1)

    def pack_texts(self, tokens: Tensor) -> Tensor:
        """The same as `features` with half the work on a CPU: all texts in one row, separated by the widest window's padding."""
        longest, gap = tokens.shape[1], self.widest
        places = torch.arange(1, longest + 1, device=tokens.device)
        ends = ((tokens != 0) * places).amax(1) + gap  # length of each text with its padding
        padded = F.pad(tokens, (0, gap))
        column = torch.arange(longest + gap, device=tokens.device)
        row = F.pad(padded[column < ends[:, None]], (gap - 1, 0))
        words = self.embedding(row).t()[None]
        starts = ends.cumsum(0) - ends
        # positions where each text's windows end; the last one is repeated to equal length
        windows = starts[:, None] + torch.minimum(column[: int(ends.max())], ends[:, None] - 1)
        return torch.cat([self._highest(c, words, windows) for c in self.convolutions], dim=1)

    def _highest(self, convolution: nn.Module, words: Tensor, windows: Tensor) -> Tensor:
        values = convolution(words)[0].t()
        return values[len(values) - (words.shape[2] - self.widest + 1) :][windows].amax(1)
