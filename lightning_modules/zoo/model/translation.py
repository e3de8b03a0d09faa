"""Encoder-decoders for translation: a transformer and a GRU with attention. Longer than 200 lines: both and their layers."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.sentence_pairs import PAD

States = tuple[Tensor, ...]  # each with a row for each sentence


class EncoderDecoder(nn.Module):
    """Pairs int [B, 2, T] -> logits [B, T, num_outputs] of the target token at each position.

    Row 0 is the source, row 1 the target shifted by one (`SentencePairs`). Padding changes no other position. A source
    is encoded once; its target is then decoded as a whole, or token by token with the same result.
    """

    variable_dims: tuple[int, ...] = (2,)  # those that an exported model leaves open

    def __init__(
        self, name: str, input_shape: Sequence[int], num_sources: int | None, num_outputs: int, dim: int
    ) -> None:
        super().__init__()
        if num_sources is None or len(input_shape) != 2 or input_shape[0] != 2:
            raise UserError(
                f"model={name} needs pairs of sentences [2, T], the data gives {tuple(input_shape)}; try data=parallel_text"
            )
        self.length = int(input_shape[1])
        self.source, self.target = nn.Embedding(num_sources, dim), nn.Embedding(num_outputs, dim)

    @abstractmethod
    def encode(self, source: Tensor) -> States:
        """Return what decoding needs of the sources int [B, S]."""

    @abstractmethod
    def decode(self, target: Tensor, memory: States) -> Tensor:
        """Return the logits [B, T, V] of the tokens that follow those of int [B, T]."""

    @abstractmethod
    def step(self, tokens: Tensor, memory: States, state: States) -> tuple[Tensor, States]:
        """Return the logits [B, V] after the next tokens int [B], and the new state; that of the start is ()."""

    def forward(self, pairs: Tensor) -> Tensor:
        pairs = pairs.long()  # an int8 model gets floats
        source, target = pairs.unbind(1)
        if not torch.compiler.is_compiling():  # neither traced nor exported: without columns of padding
            source, target = (side[:, : int((side != PAD).any(0).sum())] for side in (source, target))
        logits = self.decode(target, self.encode(source))
        return F.pad(logits, (0, 0, 0, pairs.shape[2] - logits.shape[1]))


class Attention(nn.Module):
    """Multi-head attention to the keys and values [B, heads, T, dim / heads] of other states or of the same."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> States:
        """Return the keys and values of states [B, T, dim]."""
        return tuple(self._split(part) for part in self.key_value(x).chunk(2, -1))

    def forward(self, x: Tensor, seen: States, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(
            self._split(self.query(x)), seen[0], seen[1], mask, dropout_p=dropout, is_causal=causal
        )
        return torch.as_tensor(self.proj(found.transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """Self-attention, in a decoder attention to the source, and a two-layer perceptron, each added to its input."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, norm_first: bool, decoder: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(dim, heads, dropout)
        self.source_attention = Attention(dim, heads, dropout) if decoder else None
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 + decoder))
        self.dropout = nn.Dropout(dropout)

    def _before(self, i: int, x: Tensor) -> Tensor:
        return self.norms[i](x) if self.norm_first else x

    def _after(self, i: int, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.dropout(found)
        return x if self.norm_first else self.norms[i](x)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, causal: bool = False, source: States = (), past: States = ()
    ) -> tuple[Tensor, States]:
        """Return the new states [B, T, dim], and all keys and values; with those of a `past`, T is 1."""
        x_in = self._before(0, x)
        seen = self.attention.keys_values(x_in)
        seen = tuple(torch.cat(both, 2) for both in zip(past, seen, strict=True)) if past else seen
        x = self._after(0, x, self.attention(x_in, seen, None if source else mask, causal))
        if self.source_attention is not None:
            x = self._after(1, x, self.source_attention(self._before(1, x), source, mask))
        return self._after(-1, x, self.mlp(self._before(-1, x))), seen


class TranslationTransformer(EncoderDecoder):
    """The transformer of Vaswani et al. 2017, with learned positions.

    Args:
        input_shape, num_outputs, num_sources: [2, T], and the sizes of the two vocabularies; from the data.
        depth: layers of the encoder, and of the decoder.
        hidden: units of the perceptrons.
        norm_first: layer norm before each part (Xiong et al. 2020), rather than after it.
        tied: the output matrix is that of the target embeddings (Press and Wolf 2017).
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        num_sources: Count | None = None,
        depth: Count = 3,
        heads: Count = 4,
        dim: Count = 128,
        hidden: Count = 256,
        dropout: float = 0.1,
        norm_first: bool = True,
        tied: bool = True,
    ) -> None:
        super().__init__("translation_transformer", input_shape, num_sources, num_outputs, dim)
        if dim % heads:
            raise UserError(f"model.dim={dim} must be a multiple of model.heads={heads}")
        self.source_positions, self.target_positions = (nn.Embedding(self.length, dim) for _ in range(2))
        sizes = (dim, heads, hidden, dropout, norm_first)
        self.encoder = nn.ModuleList(Layer(*sizes, decoder=False) for _ in range(depth))
        self.decoder = nn.ModuleList(Layer(*sizes, decoder=True) for _ in range(depth))
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(dim) if norm_first else nn.Identity() for _ in range(2))
        self.output = None if tied else nn.Linear(dim, num_outputs)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def _embed(self, tokens: Tensor, words: nn.Embedding, positions: nn.Embedding, start: int = 0) -> Tensor:
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = words(tokens) * words.embedding_dim**0.5 + positions(places)
        return torch.as_tensor(self.dropout(x))

    def _logits(self, x: Tensor) -> Tensor:
        x = self.decoder_norm(x)
        return F.linear(x, self.target.weight) if self.output is None else self.output(x)

    def encode(self, source: Tensor) -> States:
        mask = (source != PAD)[:, None, None]
        x = self._embed(source, self.source, self.source_positions)
        for layer in self.encoder:
            x, _ = layer(x, mask)
        x = self.encoder_norm(x)
        return (mask, *(part for layer in self._decoder() for part in layer.keys_values(x)))

    def _decoder(self) -> list[Attention]:
        return [layer.source_attention for layer in self.decoder]  # type: ignore[misc]

    def decode(self, target: Tensor, memory: States) -> Tensor:
        x = self._embed(target, self.target, self.target_positions)
        for i, layer in enumerate(self.decoder):
            x, _ = layer(x, memory[0], True, memory[1 + 2 * i : 3 + 2 * i])
        return self._logits(x)

    def step(self, tokens: Tensor, memory: States, state: States) -> tuple[Tensor, States]:
        start, present = state[0].shape[2] if state else 0, []
        x = self._embed(tokens[:, None], self.target, self.target_positions, start)
        for i, layer in enumerate(self.decoder):
            x, seen = layer(x, memory[0], False, memory[1 + 2 * i : 3 + 2 * i], state[2 * i : 2 * i + 2])
            present += seen
        return self._logits(x[:, 0]), tuple(present)


class AttentionGRU(EncoderDecoder):
    """A bidirectional GRU, and a GRU that attends to its states (Luong et al. 2015: "general", without input feeding).

    Args:
        input_shape, num_outputs, num_sources: [2, T], and the sizes of the two vocabularies; from the data.
        dim: of embeddings and of the attentional states, whose output matrix is that of the target embeddings.
        hidden: of the states of each GRU.
    """

    variable_dims = ()  # torch exports a GRU for one length

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        num_sources: Count | None = None,
        dim: Count = 128,
        hidden: Count = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__("attention_gru", input_shape, num_sources, num_outputs, dim)
        self.forwards, self.backwards = (nn.GRU(dim, hidden, batch_first=True) for _ in range(2))
        self.decoder = nn.GRU(dim, hidden, batch_first=True)
        self.bridge, self.key = nn.Linear(2 * hidden, hidden), nn.Linear(2 * hidden, hidden, bias=False)
        self.combine = nn.Linear(3 * hidden, dim)
        self.dropout = nn.Dropout(dropout)
        for words in (self.source, self.target):
            nn.init.normal_(words.weight, std=dim**-0.5)

    def encode(self, source: Tensor) -> States:
        mask = source != PAD
        last = mask.sum(1, keepdim=True) - 1
        places = torch.arange(source.shape[1], device=source.device)
        mirrored = (last - places).clamp(min=0)[..., None]  # each sentence backwards, so that its padding is read last
        x = self.dropout(self.source(source))
        ahead, _ = self.forwards(x)
        back, _ = self.backwards(x.gather(1, mirrored.expand_as(x)))
        back = back.gather(1, mirrored.expand_as(back))
        ends = torch.cat([ahead.gather(1, last[..., None].expand_as(ahead[:, :1]))[:, 0], back[:, 0]], 1)
        states = torch.cat([ahead, back], 2)
        return mask, states, self.key(states), self.bridge(ends).tanh()

    def _logits(self, x: Tensor, memory: States) -> Tensor:
        mask, states, keys, _ = memory
        weights = (x @ keys.mT).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        found = self.dropout(self.combine(torch.cat([weights @ states, x], 2)).tanh())
        return F.linear(found, self.target.weight)

    def decode(self, target: Tensor, memory: States) -> Tensor:
        x, _ = self.decoder(self.dropout(self.target(target)), memory[3][None].contiguous())
        return self._logits(x, memory)

    def step(self, tokens: Tensor, memory: States, state: States) -> tuple[Tensor, States]:
        start = state[0] if state else memory[3]
        x, last = self.decoder(self.dropout(self.target(tokens[:, None])), start[None].contiguous())
        return self._logits(x, memory)[:, 0], (last[0],)
