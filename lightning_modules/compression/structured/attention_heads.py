"""Attention heads whose queries, keys and values come from one linear layer, as in our ViT and timm's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules.compression.optional_import import optional_import


@dataclass(frozen=True)
class AttentionParts:
    """Names of an attention's parts: attribute `count` of `module` is the number of heads; ``qkv`` gives [3, heads, dim]."""

    module: str
    count: str
    qkv: str
    projection: str

    def rows(self, model: nn.Module) -> list[list[int]]:
        """For each head, its rows of the qkv layer."""
        heads: int = getattr(model.get_submodule(self.module), self.count)
        width: int = self._layer(model, self.projection).in_features
        dim = width // heads
        return [[part * width + head * dim + i for part in range(3) for i in range(dim)] for head in range(heads)]

    def remove(self, model: nn.Module, gone: Sequence[int], rows: Sequence[int]) -> None:
        """Remove the heads `gone`, whose rows of the qkv layer are `rows`."""
        pruning = optional_import("torch_pruning")
        module: Any = model.get_submodule(self.module)
        qkv, projection = self._layer(model, self.qkv), self._layer(model, self.projection)
        width = projection.in_features
        pruning.prune_linear_out_channels(qkv, list(rows))
        pruning.prune_linear_in_channels(projection, [row for row in rows if row < width])
        setattr(module, self.count, getattr(module, self.count) - len(gone))
        if hasattr(module, "attn_dim"):  # timm
            module.attn_dim = projection.in_features

    @staticmethod
    def _layer(model: nn.Module, name: str) -> nn.Linear:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return layer


def find_attentions(model: nn.Module) -> list[AttentionParts]:
    """All such attentions of `model`, in its order."""
    found = []
    for name, module in model.named_modules():
        layers = dict(module.named_children())
        qkv, projection = layers.get("qkv"), layers.get("projection", layers.get("proj"))
        count = next((key for key in ("heads", "num_heads") if isinstance(getattr(module, key, None), int)), None)
        if count is None or not isinstance(qkv, nn.Linear) or not isinstance(projection, nn.Linear):
            continue
        if qkv.out_features == 3 * projection.in_features:
            own = "projection" if "projection" in layers else "proj"
            found.append(AttentionParts(name, count, f"{name}.qkv".lstrip("."), f"{name}.{own}".lstrip(".")))
    return found
