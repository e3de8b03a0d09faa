"""Text classifiers: a bidirectional GRU and a small transformer encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import text_shape, trim_padding


class TextGRU(nn.Module):
    """Words int [B, L] -> embeddings -> bidirectional GRU -> max over the words -> head.

    GRU: Cho et al. 2014; max pooling over time: Conneau et al. 2017, "Supervised Learning of Universal Sentence
    Representations", section 3.2.2. Padding is skipped; an empty text is one padding token.

    Args:
        vocab_size: number of token ids, taken from the data.
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
        self.sentence = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), num_outputs)

    @property
    def mixing_point(self) -> nn.Module:
        """The vector of a text."""
        return self.sentence

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = trim_padding(tokens)
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = ((tokens != 0) * places).amax(1).clamp(min=1)
        words = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        beyond = (places > lengths[:, None]).unsqueeze(2)
        pooled = states.masked_fill(beyond, -torch.inf).amax(1)
        return self.head(self.dropout(self.sentence(pooled)))


class TextTransformer(nn.Module):
    """Words int [B, L] -> embeddings with learned positions -> encoder layers -> class token -> head.

    Vaswani et al. 2017 with pre-norm layers and a learned class token before the words, as in BERT (Devlin et al. 2019).
    Padding is masked; an empty text consists of the class token.

    Args:
        vocab_size: number of token ids, taken from the data.
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
        self.sentence = nn.Identity()
        self.head = nn.Linear(dim, num_outputs)

    @property
    def mixing_point(self) -> nn.Module:
        """The vector of a text."""
        return self.sentence

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = trim_padding(tokens)
        words = torch.cat([self.first.expand(len(tokens), 1, -1), self.embedding(tokens)], dim=1)
        words = self.dropout(words + self.positions[: words.shape[1]])
        padding = F.pad(tokens == 0, (1, 0), value=False)
        return self.head(self.sentence(self.encoder(words, src_key_padding_mask=padding)[:, 0]))
