"""A bidirectional GRU text classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules.model.text_shape import text_shape, trim_padding


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
