"""GPT: a decoder-only transformer for language modelling (Radford et al. 2019), with a cache for generation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError

Cache = list[tuple[Tensor, Tensor]]  # keys and values [B, heads, T, dim / heads] of each layer


class CausalSelfAttention(nn.Module):
    """Attention of each position to itself and those before it."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.proj_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the new states [B, T, dim] and all keys and values; with those of a `past`, T is 1."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=past is None)
        joined = mixed.transpose(1, 2).reshape(batch, length, dim)
        return self.proj_dropout(self.proj(joined)), (k, v)


class Block(nn.Module):
    """A pre-norm layer: attention, then a two-layer perceptron with GELU, each added to its input."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, bias=bias)
        self.attention = CausalSelfAttention(dim, heads, dropout, bias)
        self.mlp_norm = nn.LayerNorm(dim, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim, bias=bias), nn.GELU(), nn.Linear(4 * dim, dim, bias=bias), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, present = self.attention(self.attention_norm(x), past)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), present


class GPT(nn.Module):
    """Tokens int [B, T] -> logits [B, T, num_outputs] of the token that follows each; T is at most the block.

    Positions are learned, and the output matrix is that of the embeddings (tied). Weights are initialised as GPT-2's:
    normal with standard deviation 0.02, projections into the residual stream divided by sqrt(2 * depth).

    Args:
        input_shape, num_outputs: the block and the size of the vocabulary; from the data.
        dim: of embeddings and states; a multiple of `heads`.
        bias: of linear layers and layer norms.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        depth: Count = 4,
        heads: Count = 4,
        dim: Count = 128,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise UserError(f"model=gpt needs tokens [T], the data gives {tuple(input_shape)}; try data=packed_text")
        if dim % heads:
            raise UserError(f"model.dim={dim} must be a multiple of model.heads={heads}")
        self.block = int(input_shape[0])
        self.tokens = nn.Embedding(num_outputs, dim)
        self.positions = nn.Embedding(self.block, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, bias=bias)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                into_residual = name.endswith(("attention.proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if into_residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Compute the logits; tokens that follow those of a `cache` are one at a time, and are added to it."""
        start = cache[0][0].shape[2] if cache else 0
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens.long()) + self.positions(positions))  # an int8 model gets floats
        present: Cache = []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, cache[i] if cache else None)
            present.append(kept)
        if cache is not None:
            cache[:] = present
        return F.linear(self.norm(x), self.tokens.weight)
