"""A small vision transformer for images and series."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.shape import image_shape, series_shape


class ViT(nn.Module):
    """Pre-norm transformer over patches (Dosovitskiy et al. 2021) with learned positions and mean pooling instead of a class
    token (Beyer et al. 2022, "Better plain ViT baselines").

    Images [C, H, W] are split into square patches of side `patch_size`, series [L] or [C, L] into pieces of that length.
    Raises UserError if the sides are not multiples of `patch_size`, or `dim` not of `heads`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        patch_size: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        image = len(input_shape) == 3
        shape = image_shape("vit_tiny", input_shape) if image else series_shape("vit_tiny", input_shape)
        if any(size % patch_size for size in shape[1:]):
            raise UserError(f"model.patch_size={patch_size} does not divide the sides of {tuple(input_shape)}")
        if dim % heads:
            raise UserError(f"model.dim={dim} must be a multiple of model.heads={heads}")
        tokens = 1
        for size in shape[1:]:
            tokens *= size // patch_size
        convolution = nn.Conv2d if image else nn.Conv1d
        self.sample = (-1, *shape)
        self.patches = convolution(shape[0], dim, patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.empty(tokens, dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio * dim, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x.reshape(self.sample)).flatten(2).transpose(1, 2)
        tokens = self.blocks(self.dropout(tokens + self.positions))
        return self.head(self.norm(tokens).mean(1))


class Block(nn.Module):
    """Attention, then MLP, each with a pre-norm and a skip connection, on tokens [B, T, dim].

    Its layers are plain `nn.Linear`, so that pruning and quantization can find them (torch's encoder layer hides them in
    a fused kernel).
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.projection(self._attention(self.qkv(self.norm1(tokens)))))
        return tokens + self.dropout(self.mlp(self.norm2(tokens)))

    def _attention(self, qkv: Tensor) -> Tensor:
        heads = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, T, dim / heads]
        return F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2)
