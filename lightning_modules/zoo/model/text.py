"""Networks for texts: Kim's CNN, a bidirectional GRU, a small transformer. Longer than 200 lines: three networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import text_shape


class TextNetwork(nn.Module):
    """A network of words int [B, L] that can mix the vectors of two texts.

    Its argument `vocab_size`, the number of token ids, is taken from the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sentence = nn.Identity()

    @property
    def mixing_point(self) -> nn.Module:
        """The vector of a text (senMixup of Guo et al. 2019, "Augmenting Data with Mixup for Sentence Classification")."""
        return self.sentence


def _text_lengths(tokens: Tensor) -> Tensor:
    """The position after the last word of each text, int64 [B]."""
    return ((tokens != 0) * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(1)


def _trim_padding(tokens: Tensor) -> Tensor:
    """Token ids [B, L] without trailing columns that are padding in all rows; at least one column is kept."""
    if torch.compiler.is_compiling():  # the length depends on the values
        return tokens
    return tokens[:, : max(1, int(_text_lengths(tokens).max()))]


class MaxNormLinear(nn.Linear):
    """A linear layer whose rows are clipped to an L2 norm of `max_norm` (Kim 2014, section 3.1).

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


class KimCNN(TextNetwork):
    """Words int [B, L] -> embeddings -> convolutions of several widths -> max over time -> dropout -> head.

    CNN-rand of Kim 2014, "Convolutional Neural Networks for Sentence Classification": embeddings are initialised in
    U(-0.25, 0.25), that of padding with zero. A text is treated as if padded infinitely on both sides: its output does not
    depend on the rest of the batch, and empty texts are allowed.

    Args:
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
        self.dropout = nn.Dropout(dropout)
        self.head = MaxNormLinear(feature_maps * len(kernel_sizes), num_outputs, max_norm)

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.features(tokens) if tokens.is_cuda or torch.compiler.is_compiling() else self.pack_texts(tokens)
        return self.head(self.dropout(self.sentence(features.relu())))

    def features(self, tokens: Tensor) -> Tensor:
        """The maximum over time of each map, [B, maps], computed on the padded batch."""
        words = self.embedding(F.pad(tokens, (self.widest - 1, self.widest))).transpose(1, 2)
        return torch.cat([convolution(words).amax(2) for convolution in self.convolutions], dim=1)

    def pack_texts(self, tokens: Tensor) -> Tensor:
        """The same as `features` with half the work on a CPU: all texts in one row, separated by the widest window's padding."""
        gap = self.widest
        ends = _text_lengths(tokens) + gap  # with its padding
        padded = F.pad(tokens, (0, gap))
        column = torch.arange(padded.shape[1], device=tokens.device)
        row = F.pad(padded[column < ends[:, None]], (gap - 1, 0))
        words = self.embedding(row).t()[None]
        starts = ends.cumsum(0) - ends
        # positions where each text's windows end; the last one is repeated to equal length
        windows = starts[:, None] + torch.minimum(column[: int(ends.max())], ends[:, None] - 1)
        return torch.cat([self._highest(c, words, windows) for c in self.convolutions], dim=1)

    def _highest(self, convolution: nn.Module, words: Tensor, windows: Tensor) -> Tensor:
        values = convolution(words)[0].t()
        return values[len(values) - (words.shape[2] - self.widest + 1) :][windows].amax(1)


class TextGRU(TextNetwork):
    """Words int [B, L] -> embeddings -> bidirectional GRU -> max over the words -> head.

    GRU: Cho et al. 2014; max pooling over time: Conneau et al. 2017, "Supervised Learning of Universal Sentence
    Representations", section 3.2.2. Padding is skipped; an empty text is one padding token.

    Args:
        dropout: on embeddings and on the pooled states.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        vocab_size: int | None = None,
        embedding_dim: int = 100,
        hidden_size: int = 100,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        _, size = text_shape("text_gru", input_shape, vocab_size)
        self.embedding = nn.Embedding(size, embedding_dim, padding_idx=0)
        self.gru = nn.GRU(embedding_dim, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = _trim_padding(tokens)
        lengths = _text_lengths(tokens).clamp(min=1)
        words = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        beyond = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        pooled = states.masked_fill(beyond.unsqueeze(2), -torch.inf).amax(1)
        return self.head(self.dropout(self.sentence(pooled)))


class TextTransformer(TextNetwork):
    """Words int [B, L] -> embeddings with learned positions -> encoder layers -> class token -> head.

    Vaswani et al. 2017 with pre-norm layers and a learned class token before the words, as in BERT (Devlin et al. 2019).
    Padding is masked; an empty text consists of the class token.

    Args:
        dim: of embeddings and states; a multiple of `heads`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        vocab_size: int | None = None,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        length, size = text_shape("text_transformer", input_shape, vocab_size)
        if dim % heads:
            raise UserError(f"model.dim={dim} must be a multiple of model.heads={heads}")
        self.embedding = nn.Embedding(size, dim, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length + 1, dim))
        self.first = nn.Parameter(torch.empty(dim))
        for table in (self.embedding.weight, self.positions, self.first):
            nn.init.normal_(table, std=0.02)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = _trim_padding(tokens)
        words = torch.cat([self.first.expand(len(tokens), 1, -1), self.embedding(tokens)], dim=1)
        words = self.dropout(words + self.positions[: words.shape[1]])
        padding = F.pad(tokens == 0, (1, 0), value=False)
        return self.head(self.sentence(self.encoder(words, src_key_padding_mask=padding)[:, 0]))
