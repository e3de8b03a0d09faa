"""A small transformer encoder for text classification."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.model.text_shape import text_shape, trim_padding


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
